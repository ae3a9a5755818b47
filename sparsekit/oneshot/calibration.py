"""Calibration data: batches of labelled rows on which a pruning method measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sparsekit.data.columns import values
from sparsekit.data.datasets import FileDataset
from sparsekit.data.delimited import UNLESS_HEADER
from sparsekit.data.labels import FEW_LABELS
from sparsekit.data.schema import Column
from sparsekit.errors import ConfigError, UserError
from sparsekit.tasks.base import Data, Task
from sparsekit.tasks.checks import checked_splits
from sparsekit.tasks.texts import column_problems

# Rows of one forward and backward pass; one layer's gradients of all of them are in memory.
ROWS = 32
# Errors of data sets name keys of the launcher's config; the command has options instead.
_OPTIONS = {
    "dataset.data_files.train": "--data",
    "dataset.text_columns": "--text-column",
    "dataset.token_column": "--text-column",
    "dataset.question_column": "--text-column",
    "dataset.context_column": "--text-column",
    "dataset.label_column": "--label-column",
    "dataset.tag_column": "--label-column",
    "dataset.answers_column": "--label-column",
    "dataset.max_length": "--max-length",
}


@dataclass(kw_only=True)
class CalibrationFile(FileDataset):
    """A file whose rows are all calibration data."""

    def raw(self, columns: Sequence[Column]) -> DatasetDict:
        rows = super().raw(columns)["train"]
        return DatasetDict(train=rows, validation=rows)


def read(path: Path, task: Task, labelled: bool = True) -> Data:
    """The rows of a file as the split `train`; raises UserError for unusable ones.

    Without `labelled` only texts are read, and each row has a label that means nothing. Words have
    no sense without their tags, so that these are read anyway.
    """
    source = CalibrationFile(data_files={"train": str(path)})
    try:
        return task.load(source) if labelled or task.words else _texts(source, task)
    except UserError as error:
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        # Both splits have the same rows.
        problems = [text for text in problems if "split 'validation'" not in text] or problems
        problems = [text.partition(UNLESS_HEADER)[0] for text in problems]
        few = f"label in {path}; at least 2 are needed: choose rows of several classes"
        problems = [text.replace(FEW_LABELS, few) for text in problems]
        for key, option in _OPTIONS.items():
            problems = [text.replace(key, option) for text in problems]
        raise ConfigError(list(dict.fromkeys(problems))) from error


def _texts(source: CalibrationFile, task: Task) -> Data:
    """The columns of text alone."""
    if problems := task.problems():
        raise ConfigError(problems)
    columns = [column for column in task.columns() if column.is_text]
    splits = checked_splits(source, columns)
    if problems := column_problems(splits, columns):
        raise ConfigError(problems)
    texts = [[text or "" for text in values(splits["train"], column.name)] for column in columns]
    return Data(task, {"train": task.unlabelled(texts)}, [])


Collate = Callable[[list[dict[str, Any]]], Mapping[str, Tensor]]


def draw(
    rows: Dataset, collate: Collate, count: int, seed: int, multiple: int = 1
) -> Iterator[Mapping[str, Tensor]]:
    """Batches of `count` random rows in all, short rows first.

    A row is drawn again only after all others. Rows are drawn in groups of `multiple`, which stay
    in one batch; `count` must be a multiple of it.
    """
    generator = torch.Generator().manual_seed(seed)
    passes = -(-count // len(rows))
    order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(passes)])
    drawn = [rows[index] for index in order[:count].tolist()]
    groups = [drawn[start : start + multiple] for start in range(0, count, multiple)]
    # Rows of similar length go into one batch, since padding costs as much as text.
    groups.sort(key=lambda group: max(map(_length, group)))
    size = max(1, ROWS // multiple)
    for start in range(0, len(groups), size):
        yield collate([row for group in groups[start : start + size] for row in group])


def _length(row: Mapping[str, Any]) -> int:
    if "input_ids" in row:
        return len(row["input_ids"])
    return sum(len(row[name]) for name in ("text", "text_pair") if name in row)


@dataclass
class TextCollator:
    """Makes batches of a model's inputs and `labels` from rows in the task's form.

    Where a row becomes several, such as the windows of a context, as many as there were rows are
    kept, from all over the batch.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    device: torch.device

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        columns = self.task.tokenize(Dataset.from_list(rows), self.tokenizer)
        del columns["length"]
        tokens = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        kept = [tokens[index * len(tokens) // len(rows)] for index in range(len(rows))]
        batch = self.task.collator(self.tokenizer)(kept)
        return {name: values.to(self.device) for name, values in batch.items()}
