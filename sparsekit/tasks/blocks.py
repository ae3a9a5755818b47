"""Streamed training rows in the form of their task: each block is checked and read as a table is.

Labels are those of the validation table, which is read first: which labels there are must be known
before the model is made, and a stream would tell only at its end.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from datasets import Dataset, DatasetDict

from sparsekit.data.columns import values
from sparsekit.data.datasets import Source
from sparsekit.data.schema import Column
from sparsekit.data.selection import ReadRows
from sparsekit.errors import ConfigError, reworded
from sparsekit.tasks.base import Data, Task

# Rows of validation that are read with each block, besides those that bring further labels.
KNOWN = 2_000
# Of each label; with fewer rows, a column of many labels is taken for one of texts.
_EACH = 2


def load_tables(task: Task, tables: DatasetDict) -> Data:
    """The splits of `tables`, which has no `train`, in the form of the task.

    Raises ConfigError without a validation split, and as `Task.load` does.
    """
    if "validation" not in tables:
        raise ConfigError(
            [
                f"dataset.streaming=true needs a validation table, and the data set has "
                f"{', '.join(tables) or 'no other split'}; name it in dataset.splits.validation"
            ]
        )
    try:
        data = task.load(ReadRows(DatasetDict({**tables, "train": tables["validation"]})))
    except ConfigError as error:
        # What is said of both splits is said once.
        problems = [text for text in error.problems if "split 'train'" not in text]
        raise ConfigError(list(dict.fromkeys(problems or error.problems))) from error
    splits = {split: rows for split, rows in data.splits.items() if split != "train"}
    return Data(data.task, splits, data.label_names)


@dataclass(frozen=True)
class TaskBlocks:
    """The training rows in the form of their task, one block after the other.

    source: what the rows are read from.
    known: raw rows with every label there is, see `known_rows`.
    data: the other splits.
    model_labels: the student's `id2label`.
    size: rows in a block.
    """

    source: Source
    known: Dataset
    data: Data
    model_labels: Mapping[int, str]
    size: int

    def raw(self) -> Iterator[Dataset]:
        """The blocks as they are stored, with the origin of their rows."""
        return self.source.blocks(self.data.task.columns(), self.size)

    def loaded(self, block: Dataset) -> Dataset:
        """A block of `raw` in the form of the task.

        Raises ConfigError for rows that the task cannot use, each with its file and line.
        """
        task = self.data.task
        splits = DatasetDict(train=self.known, validation=block)
        with reworded(_of_stream):
            data = task.with_model_labels(task.load(ReadRows(splits)), self.model_labels)
        if data.label_names != self.data.label_names:
            raise ConfigError(
                [
                    f"streamed rows make the labels {', '.join(data.label_names)} of those in "
                    f"validation, {', '.join(self.data.label_names)}; write them in one way"
                ]
            )
        return data.splits["validation"]

    def __iter__(self) -> Iterator[Dataset]:
        """Each block of one pass over the data set.

        Nothing is warned of: the first block was read once before, and so many would flood the log.
        """
        reading = self.raw()
        while True:
            with _quiet("sparsekit.data"):
                block = next(reading, None)
                loaded = None if block is None else self.loaded(block)
            if loaded is None:
                return
            yield loaded


def known_rows(validation: Dataset, columns: Sequence[Column]) -> Dataset:
    """Rows of the raw validation table that have every label: as few as make sense of a column."""
    kept = set(range(min(KNOWN, len(validation))))
    for column in columns:
        named = column.lists or column.role in ("class", "labels")
        if column.is_text or not named or column.name not in validation.column_names:
            continue
        seen: Counter[str] = Counter()
        for row, value in enumerate(values(validation, column.name)):
            labels = {str(each) for each in (value if isinstance(value, list) else [value])}
            if any(seen[label] < _EACH for label in labels):
                kept.add(row)
                seen.update(labels)
    return validation.select(sorted(kept)) if len(kept) < len(validation) else validation


def _of_stream(problem: str) -> str:
    """A problem of `known` as train and a block as validation, as it is of validation and train."""
    renamed = problem.replace("split 'validation'", "split 'train'")
    for word in ("is never seen in", "is not one of"):
        renamed = renamed.replace(f"{word} train", f"{word} validation")
    return renamed


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Within the block the logger called `name` has no warnings."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
