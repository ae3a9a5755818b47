"""The order of the training rows: one for each seed and epoch, however the run came there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

# Keeps the epochs of one seed apart from those of the next.
_STRIDE = 1_000_003


class EpochOrder(Sampler[int]):
    """A length-grouped order that is drawn from the seed and `epoch()` at the start of each epoch.

    transformers draws it from torch's global generator, whose state depends on every step before.
    So a run that is resumed within an epoch would get another order, see some rows of that epoch
    twice and others not at all.

    transformers also leaves the batches sorted, 50 at a time from long rows to short, so that what
    is learned swings with the length. Here their order is random, but for the first, which holds
    the longest row (memory runs out at once or never), and the last, which may be smaller.
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: int, epoch: Callable[[], int]) -> None:
        self._sampler, self._seed, self._epoch = sampler, seed, epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * _STRIDE + self._epoch())
        self._sampler.generator = generator
        rows, size = list(self._sampler), self._sampler.batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        first, between, last = batches[:1], batches[1:-1], batches[1:][-1:]
        shuffled = [between[i] for i in torch.randperm(len(between), generator=generator)]
        return (row for batch in [*first, *shuffled, *last] for row in batch)

    def __len__(self) -> int:
        return len(self._sampler)


def order_by_epoch(loader: DataLoader[object], seed: int, epoch: Callable[[], int]) -> None:
    """Give `loader` the order of its seed and epoch, where it groups rows by length."""
    if sampler := lengths_in_memory(loader):
        loader.batch_sampler.sampler = EpochOrder(sampler, seed, epoch)  # type: ignore[union-attr]


def lengths_in_memory(loader: DataLoader[object]) -> LengthGroupedSampler | None:
    """The sampler that groups the rows of `loader` by length, if one does, with its lengths read.

    transformers gives it a column of the data set, which is read again for each length asked for:
    a fifth of the time that a small model trains.
    """
    sampler = getattr(loader.batch_sampler, "sampler", None)
    if not isinstance(sampler, LengthGroupedSampler):
        return None
    sampler.lengths = list(sampler.lengths)
    return sampler
