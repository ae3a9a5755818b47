"""What a model's loss is a mean over."""

from __future__ import annotations

import pytest
import torch

from sparsekit.data.collator import IGNORED
from sparsekit.sparsity.items import items_of_rows, labels_per_token
from sparsekit.tasks.base import Task
from sparsekit.tasks.masked_lm import MaskedLM
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.token_classification import TokenClassification

TOKENS = torch.ones(2, 4, dtype=torch.long)


def test_labels_of_tokens_are_counted() -> None:
    batch = {"input_ids": TOKENS, "labels": torch.tensor([[1, -100, 0, 2], [-100] * 4])}
    assert labels_per_token(batch)
    assert items_of_rows(batch).tolist() == [3, 0]


def test_a_row_with_as_many_labels_as_tokens_is_one_item() -> None:
    """As multi-label rows are: they must not be padded with the tokens either."""
    for labels in (
        torch.ones(2, 4),
        torch.ones(2, 3),
        torch.tensor([0, 1]),
        torch.tensor([[1, 2]] * 2),
    ):
        batch = {"input_ids": TOKENS, "labels": labels}
        assert not labels_per_token(batch)
        assert items_of_rows(batch).tolist() == [1, 1]


@pytest.mark.parametrize("task", [TokenClassification(), MaskedLM(), TextClassification()])
def test_it_is_what_the_trainer_counts(task: Task) -> None:
    """The rooms of both import none of each other, so only a test keeps them together."""
    labels = torch.tensor([[1, IGNORED, 0, 2], [IGNORED] * 4])
    if isinstance(task, TextClassification):
        labels = torch.tensor([0, 1])
    batch = {"input_ids": TOKENS, "labels": labels}
    assert int(task.loss_items(labels)) == int(items_of_rows(batch).sum())
