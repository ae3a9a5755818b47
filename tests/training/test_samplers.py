"""The order of training rows: drawn by seed and epoch, in batches that are grouped by length."""

from __future__ import annotations

import itertools
import random

import pytest
from transformers.trainer_pt_utils import LengthGroupedSampler

from sparsekit.training.samplers import EpochOrder

BATCH = 8


def order(lengths: list[int], seed: int = 0, epoch: int = 0) -> list[int]:
    return list(EpochOrder(LengthGroupedSampler(BATCH, lengths=lengths), seed, lambda: epoch))


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16, 17, 500])
def test_every_row_once(rows: int) -> None:
    lengths = [random.Random(i).randint(1, 60) for i in range(rows)]
    assert sorted(order(lengths)) == list(range(rows))


def test_seed_and_epoch_alone_decide() -> None:
    lengths = [i % 37 for i in range(200)]
    assert order(lengths, 3, 1) == order(lengths, 3, 1)
    assert order(lengths, 3, 1) != order(lengths, 3, 2)
    assert order(lengths, 3, 1) != order(lengths, 4, 1)


def test_batches_are_of_one_length_but_not_sorted() -> None:
    lengths = [random.Random(i).randint(1, 60) for i in range(3204)]
    rows = order(lengths)
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest[0] == max(lengths)
    rises = sum(a < b for a, b in itertools.pairwise(longest))
    assert len(longest) * 0.3 < rises < len(longest) * 0.7
