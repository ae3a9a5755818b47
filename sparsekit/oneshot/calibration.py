"""Calibration data: batches of labelled rows that a pruning method looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import ClassLabel, Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sparsekit.data.datasets import FileDataset, TextData
from sparsekit.errors import ConfigError, UserError

# Rows of one forward and backward pass, all of whose gradients are in memory for one layer.
ROWS = 32
# The column of labels that nothing looks at.
NO_LABEL = "(no label)"
# Data speaks of the launcher's config, here there are options.
_OPTIONS = {
    "dataset.data_files.train": "--data",
    "dataset.text_columns": "--text-column",
    "dataset.label_column": "--label-column",
    "dataset.max_length": "--max-length",
}
FORMATS: dict[str, Literal["csv", "json"]] = {".csv": "csv", ".json": "json", ".jsonl": "json"}


@dataclass(kw_only=True)
class CalibrationFile(FileDataset):
    """One csv or json file, all of whose rows are calibration data.

    Where its labels are not asked for (`labelled`), they are neither read nor needed.
    """

    labelled: bool = True

    def raw(self) -> DatasetDict:
        rows = super().raw()["train"]
        if not self.labelled:
            # Every data set has two labels; nothing looks at these.
            rows = rows.add_column(
                self.label_column, [0] * len(rows), feature=ClassLabel(names=["0", "1"])
            )
        return DatasetDict(train=rows, validation=rows)


def read(
    path: Path,
    text_columns: list[str],
    label_column: str,
    max_length: int,
    labelled: bool = True,
) -> TextData:
    """The rows of a csv or json file as the split `train`; UserError for what cannot be used.

    Without `labelled` every label is 0, whatever `label_column` holds.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise UserError(f"--data {path} is none of {', '.join(FORMATS)}; give such a file")
    data = CalibrationFile(
        format=form,
        data_files={"train": str(path)},
        text_columns=text_columns,
        label_column=label_column if labelled else NO_LABEL,
        max_length=max_length,
        labelled=labelled,
    )
    try:
        return data.load()
    except UserError as error:
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        # Both splits are the same rows.
        problems = [text for text in problems if "split 'validation'" not in text] or problems
        for key, option in _OPTIONS.items():
            problems = [text.replace(key, option) for text in problems]
        if not labelled:
            problems = [
                text.replace(f", {NO_LABEL}", "").replace(" and --label-column", "")
                for text in problems
            ]
        raise ConfigError(problems) from error


Collate = Callable[[list[dict[str, Any]]], Mapping[str, Tensor]]


def draw(
    rows: Dataset, collate: Collate, count: int, seed: int, multiple: int = 1
) -> Iterator[Mapping[str, Tensor]]:
    """Batches of `count` random rows in all, short ones first; no row twice until all came once.

    The rows of a batch are a multiple of `multiple`, which stay together; `count` must be one.
    """
    generator = torch.Generator().manual_seed(seed)
    passes = -(-count // len(rows))
    order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(passes)])
    picked = [rows[index] for index in order[:count].tolist()]
    groups = [picked[start : start + multiple] for start in range(0, count, multiple)]
    # Long rows with long ones: padding is computed with as text is.
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
    """Rows with text, label and perhaps text_pair as a model's inputs and `labels`."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    device: torch.device

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        columns = [name for name in ("text", "text_pair") if name in rows[0]]
        batch = self.tokenizer(
            *([row[name] for row in rows] for name in columns),
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        )
        batch["labels"] = torch.tensor([row["label"] for row in rows])
        return dict(batch.to(self.device))
