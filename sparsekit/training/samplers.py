"""The order of training rows: a function of seed and epoch, so that a resumed run repeats it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from sparsekit.errors import UserError
from sparsekit.training.processes import SharedBatches

# Larger than any number of epochs, so that no two pairs of seed and epoch coincide.
_STRIDE = 1_000_003


class EpochOrder(Sampler[int]):
    """A length-grouped order, drawn from the seed and `epoch()` at the start of each epoch.

    transformers draws it from torch's global generator, whose state depends on all steps before. A
    run that is resumed within an epoch would get another order, and see some rows of that epoch
    twice and others not at all.

    transformers also sorts batches by length, 50 at a time, so that the length of rows oscillates
    during training. Here the order of batches is random, except for the first, which has the
    longest row (so memory runs out at once or never), and the last, which may be smaller.
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
    """Batches of as many rows as fit in `budget` tokens, padding included.

    lengths: the number of tokens of each row.

    Rows are sorted by length, rows of equal length shuffled by the seed and `epoch()`; the order of
    batches is random, except for the first and the last, as in `EpochOrder`. Every epoch has the
    same number of batches. Raises UserError if the longest row does not fit into the budget.
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
    """The batches in random order, except for the first and the last."""
    first, between, last = batches[:1], batches[1:-1], batches[1:][-1:]
    order = torch.randperm(len(between), generator=generator)
    return [*first, *(between[i] for i in order), *last]


def order_by_epoch(
    loader: DataLoader[Any],
    seed: int,
    epoch: Callable[[], int],
    budget: int | None = None,
    processes: tuple[int, int] = (1, 0),
) -> DataLoader[Any]:
    """A loader whose order follows from seed and epoch, if `loader` groups rows by length.

    budget: tokens per batch, instead of a fixed number of rows.
    processes: how many train together, and the index of this one. They share the rows of each
        batch, in the order of one process whose batch is as large as all of theirs.
    """
    sampler = lengths_in_memory(loader)
    if sampler is not None and budget is None:
        sampler.batch_size *= processes[0]
        _batches(loader).sampler = EpochOrder(sampler, seed, epoch)
    if processes[0] > 1:
        _share(loader, *processes)
    if sampler is None or budget is None:
        return loader
    return DataLoader(
        loader.dataset,
        batch_sampler=TokenBudget(sampler.lengths, budget, seed, epoch),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        worker_init_fn=loader.worker_init_fn,
    )


def lengths_in_memory(loader: DataLoader[Any]) -> LengthGroupedSampler | None:
    """The sampler that groups the rows of `loader` by length, if any, with its lengths in a list.

    transformers leaves them in a column of the data set, which is read again for each length: a
    fifth of the training time of a small model.
    """
    sampler = getattr(_batches(loader), "sampler", None)
    if not isinstance(sampler, LengthGroupedSampler):
        return None
    sampler.lengths = list(sampler.lengths)
    return sampler


def _batches(loader: DataLoader[Any]) -> Any:
    """The sampler that makes batches of rows, before accelerate deals them out to processes."""
    batches = loader.batch_sampler
    return batches.batch_sampler if isinstance(batches, BatchSamplerShard) else batches


def _share(loader: DataLoader[Any], processes: int, process: int) -> None:
    """Deal the rows of each batch out by `SharedBatches` instead of accelerate's sampler.

    Accelerate deals out whole batches, and fills up the last one with rows of the first.
    """
    shard, batches = loader.batch_sampler, _batches(loader)
    if not isinstance(shard, BatchSamplerShard):
        raise RuntimeError(f"accelerate made a {type(shard).__name__}, which is not shared")
    shard.batch_sampler = SharedBatches(
        batches.sampler, batches.batch_size, processes, process, batches.drop_last
    )
    # What is left to accelerate's sampler: to pass on the batches of one process as they are.
    shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
