"""Training rows as they are read: blocks shuffled, tokenized and taught, without an end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

from sparsekit.errors import UserError
from sparsekit.tasks.base import Task

# Batches of rows that are tokenized together, and grouped by length.
BATCHES = 50


class StreamedRows(IterableDataset[dict[str, Any]]):
    """Tokenized training rows, pass after pass over blocks in the form of their task.

    The order is a function of seed, pass and block, so that a resumed run, which reads the rows of
    its earlier steps again, sees the same.

    Args:
        blocks: iterated once for each pass.
        task: what the rows are for.
        tokenizer: the student's.
        first: the first block, tokenized: what is measured on training rows is measured on these.
        fingerprint: a hash of what the blocks hold.
        seed: of the order.
        shuffled: whether rows are shuffled within their block.
        batch: rows of a batch, by which they are grouped by length; None leaves them ungrouped.
    """

    def __init__(
        self,
        blocks: Iterable[Dataset],
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        *,
        first: Dataset,
        fingerprint: str,
        seed: int,
        shuffled: bool,
        batch: int | None,
    ) -> None:
        super().__init__()
        self._blocks, self._task, self._tokenizer = blocks, task, tokenizer
        self.first, self.fingerprint = first, fingerprint
        self._seed, self._shuffled, self._batch = seed, shuffled, batch
        # Adds the teacher's outputs to tokenized rows of a block.
        self.teach: Callable[[Dataset], Dataset] | None = None
        # Rows that a resumed run passes over, which therefore need no teacher.
        self.passed = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        read = 0
        for turn in itertools.count():
            before = read
            for number, block in enumerate(self._blocks):
                generator = np.random.default_rng([self._seed, turn, number])
                for rows in self._windows(block, generator):
                    read += len(rows)
                    taught = rows if read <= self.passed else self._taught(rows)
                    yield from self._ordered(taught, generator)
            if read == before:
                raise UserError("dataset.data_files.train has no row that is used")

    def _windows(self, block: Dataset, generator: np.random.Generator) -> Iterator[Dataset]:
        """The tokenized rows of a block, some batches at a time."""
        order = generator.permutation(len(block)) if self._shuffled else np.arange(len(block))
        size = BATCHES * (self._batch or 32)
        for start in range(0, len(block), size):
            rows = block.select(order[start : start + size])
            yield Dataset.from_dict(self._task.tokenize(rows, self._tokenizer))

    def _taught(self, rows: Dataset) -> Dataset:
        if self.teach is None:
            return rows
        # Training's random state is that of the steps alone: a resumed run asks the teacher less.
        with torch.random.fork_rng(devices=[]):
            return self.teach(rows)

    def _ordered(self, rows: Dataset, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
        columns = rows[:]
        order = np.arange(len(rows))
        if self._shuffled and self._batch is not None:
            order = grouped(np.asarray(columns["length"]), self._batch, generator)
        for index in order.tolist():
            yield {name: values[index] for name, values in columns.items()}


def grouped(
    lengths: npt.NDArray[np.int64], batch: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """An order of rows in which the rows of a batch are of similar length, batches in random order.

    The last batch may be smaller. lengths: of the rows, [rows].
    """
    order = np.argsort(-lengths, kind="stable")
    whole = len(order) // batch * batch
    batches = order[:whole].reshape(-1, batch)
    shuffled = batches[generator.permutation(len(batches))].reshape(-1)
    return np.concatenate([shuffled, order[whole:]])
