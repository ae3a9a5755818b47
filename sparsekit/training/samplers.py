"""The order of the training rows: one for each seed and epoch, however the run came there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from sparsekit.errors import UserError

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
        generator = _generator(self._seed, self._epoch())
        self._sampler.generator = generator
        rows, size = list(self._sampler), self._sampler.batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        return (row for batch in _shuffled(batches, generator) for row in batch)

    def __len__(self) -> int:
        return len(self._sampler)


class TokenBudget(Sampler[list[int]]):
    """Batches of as many rows as fit in `budget` tokens, padding included; `lengths` are the rows'.

    Rows are sorted by length, those of one length in an order of the seed and `epoch()`; batches
    come in random order, but for the first and the last, as in `EpochOrder`. Every epoch has as
    many of them. Raises UserError for a budget that the longest row does not fit in.
    """

    def __init__(
        self, lengths: Sequence[int], budget: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self._lengths, self._seed, self._epoch = torch.tensor(lengths), seed, epoch
        longest = max(lengths)
        if budget < longest:
            raise UserError(
                f"training.tokens_per_batch is {budget}, and one row has {longest} tokens; set at "
                f"least {longest}, or a lower dataset.max_length"
            )
        self._sizes: list[int] = []
        descending = sorted(lengths, reverse=True)
        start = 0
        while start < len(descending):
            self._sizes.append(min(budget // descending[start], len(descending) - start))
            start += self._sizes[-1]

    def __iter__(self) -> Iterator[list[int]]:
        generator = _generator(self._seed, self._epoch())
        rows = torch.randperm(len(self._lengths), generator=generator)
        rows = rows[self._lengths[rows].argsort(descending=True, stable=True)]
        batches = [batch.tolist() for batch in torch.split(rows, self._sizes)]
        return iter(_shuffled(batches, generator))

    def __len__(self) -> int:
        return len(self._sizes)


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * _STRIDE + epoch)


def _shuffled(batches: list[list[int]], generator: torch.Generator) -> list[list[int]]:
    """All in random order, but for the first and the last."""
    first, between, last = batches[:1], batches[1:-1], batches[1:][-1:]
    order = torch.randperm(len(between), generator=generator)
    return [*first, *(between[i] for i in order), *last]


def order_by_epoch(
    loader: DataLoader[Any], seed: int, epoch: Callable[[], int], budget: int | None = None
) -> DataLoader[Any]:
    """A loader in the order of its seed and epoch, where `loader` groups rows by length.

    With a `budget` batches hold so many tokens, not so many rows.
    """
    sampler = lengths_in_memory(loader)
    if sampler is None:
        return loader
    if budget is None:
        loader.batch_sampler.sampler = EpochOrder(sampler, seed, epoch)  # type: ignore[union-attr]
        return loader
    return DataLoader(
        loader.dataset,
        batch_sampler=TokenBudget(sampler.lengths, budget, seed, epoch),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
    )


def lengths_in_memory(loader: DataLoader[Any]) -> LengthGroupedSampler | None:
    """The sampler that groups the rows of `loader` by length, if one does, with its lengths read.

    transformers gives it a column of the data set, which is read again for each length asked for:
    a fifth of the time that a small model trains.
    """
    sampler = getattr(loader.batch_sampler, "sampler", None)
    if not isinstance(sampler, LengthGroupedSampler):
        return None
    sampler.lengths = list(sampler.lengths)
    return sampler
