"""Calibration data: batches of labelled rows that a one-shot method looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sparsekit.config import UserError
from sparsekit.data import FileDataset, TextData

# Rows of one forward and backward pass.
ROWS = 32
FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json"}


@dataclass(kw_only=True)
class CalibrationFile(FileDataset):
    """One csv or json file, all of whose rows are calibration data."""

    def raw(self) -> DatasetDict:
        rows = super().raw()["train"]
        return DatasetDict(train=rows, validation=rows)


def read(path: Path, text_columns: list[str], label_column: str, max_length: int) -> TextData:
    """The rows of a csv or json file as the split `train`; UserError for what cannot be used."""
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise UserError(f"--data {path} is none of {', '.join(FORMATS)}; give such a file")
    return CalibrationFile(
        format=form,
        data_files={"train": str(path)},
        text_columns=text_columns,
        label_column=label_column,
        max_length=max_length,
    ).load()


@dataclass
class Calibration:
    """Rows with text, label and perhaps text_pair, and what turns them into a model's inputs."""

    rows: Dataset
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    device: torch.device

    def draw(self, count: int, seed: int, multiple: int = 1) -> Iterator[dict[str, Tensor]]:
        """Batches with `labels`, of `count` random rows in all; no row twice until all came once.

        The rows of a batch are a multiple of `multiple`; `count` must be one.
        """
        generator = torch.Generator().manual_seed(seed)
        passes = -(-count // len(self.rows))
        order = torch.cat(
            [torch.randperm(len(self.rows), generator=generator) for _ in range(passes)]
        )[:count]
        size = max(1, ROWS // multiple) * multiple
        for start in range(0, count, size):
            rows = self.rows[order[start : start + size].tolist()]
            texts = [rows[column] for column in ("text", "text_pair") if column in rows]
            batch = self.tokenizer(
                *texts,
                truncation=True,
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            )
            labels = torch.tensor(rows["label"])
            yield {**batch.to(self.device), "labels": labels.to(self.device)}
