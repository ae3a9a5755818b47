"""Data sets as they are stored: of the Hub, in files, or made by code.

What becomes of their columns is the task's affair; see `sparsekit.tasks.base`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from sparsekit.cache import cached
from sparsekit.config.build import build
from sparsekit.data.columns import BATCH
from sparsekit.data.delimited import CsvFormat
from sparsekit.data.file_blocks import file_blocks
from sparsekit.data.file_kinds import Kind
from sparsekit.data.fingerprint import files_hash
from sparsekit.data.hub_errors import LOADING, not_loaded
from sparsekit.data.origin import add_origin
from sparsekit.data.readers import read_files
from sparsekit.data.schema import Column, lacking
from sparsekit.data.unlabelled import read_unlabelled
from sparsekit.errors import ConfigError, UserError, suggestion
from sparsekit.hub.connection import limited_waiting
from sparsekit.system import expanded

log = logging.getLogger(__name__)

REQUIRED_SPLITS = ("train", "validation")
SPLITS = (*REQUIRED_SPLITS, "test")


class Source(ABC):
    """Where rows come from."""

    def files_hash(self) -> str | None:
        """A hash of the local files that hold the data; None where the config alone names them."""
        return None

    @abstractmethod
    def raw(self, columns: Sequence[Column]) -> DatasetDict:
        """The splits as they are stored; raises UserError when they cannot be read.

        columns: those that the task reads; others need not be there.
        """

    def unlabelled(self, path: Path, columns: Sequence[Column]) -> Dataset:
        """The rows of a file or folder of the same origin, whose labels, if any, are not read.

        columns: the texts that the task reads. Raises UserError when they cannot be read.
        """
        return read_unlabelled(path, columns, CsvFormat())

    # --- Training rows that are not read at once ---------------------------------------------

    def stream_problems(self) -> list[str]:
        """Why `blocks` cannot be read, each with its fix."""
        return [
            "dataset.streaming=true reads files and data sets of the Hub, not "
            f"{type(self).__name__}; set it to false"
        ]

    def without_train(self) -> Source:
        """The source of the splits but `train`."""
        raise NotImplementedError(f"{type(self).__name__} is not streamed")

    def train_hash(self) -> str | None:
        """A hash of the local files of `train`; None where the config alone names them."""
        return None

    def blocks(self, columns: Sequence[Column], size: int) -> Iterator[Dataset]:
        """The rows of `train` in order, about `size` at a time, with their origin.

        Raises UserError when they cannot be read.
        """
        raise NotImplementedError(f"{type(self).__name__} is not streamed")


def check_splits(raw: Mapping[str, Dataset]) -> None:
    """Raise ConfigError unless every required split is there, and every split has rows."""
    problems = [_split_problem(raw, split) for split in dict.fromkeys((*REQUIRED_SPLITS, *raw))]
    if found := [problem for problem in problems if problem is not None]:
        raise ConfigError(found)


@dataclass(kw_only=True)
class HubDataset(Source):
    """A dataset of the Hugging Face Hub; `splits` maps our split names to the dataset's names."""

    path: str
    name: str | None = None
    revision: str | None = None
    splits: dict[str, str | None] = field(default_factory=lambda: {s: s for s in SPLITS})

    def raw(self, columns: Sequence[Column]) -> DatasetDict:
        with self._reached():
            stored = datasets.load_dataset(self.path, self.name, revision=self.revision)
        problems = [self._absent(ours, stored) for ours in self.splits]
        if found := [problem for problem in problems if problem is not None]:
            raise ConfigError(found)
        return DatasetDict(
            {ours: stored[theirs] for ours, theirs in self.splits.items() if theirs in stored}
        )

    def _absent(self, ours: str, stored: Mapping[str, Any]) -> str | None:
        """What is wrong where the data set lacks a split that the user named.

        One under our own name need not be there.
        """
        theirs = self.splits[ours]
        if theirs is None or theirs == ours or theirs in stored:
            return None
        found = f"dataset.splits.{ours}: {self.path} has no split {theirs!r}"
        return found + suggestion(theirs, stored)

    def stream_problems(self) -> list[str]:
        if self.splits.get("train") and self.splits.get("validation"):
            return []
        return [
            "dataset.streaming=true needs a validation table; set dataset.splits.validation to a "
            "split of the data set"
        ]

    def without_train(self) -> StreamedTables:
        others = {ours: theirs for ours, theirs in self.splits.items() if ours != "train"}
        return StreamedTables(replace(self, splits=others))

    def blocks(self, columns: Sequence[Column], size: int) -> Iterator[Dataset]:
        yield from self.split_blocks("train", columns, size)

    def split_blocks(self, split: str, columns: Sequence[Column], size: int) -> Iterator[Dataset]:
        """The rows of one of our splits as `blocks`; none where the data set has no such split."""
        theirs = self.splits[split]
        with self._reached():
            stored = datasets.load_dataset(
                self.path, self.name, revision=self.revision, streaming=True
            )
            if problem := self._absent(split, stored):
                raise ConfigError([problem])
            if theirs not in stored:
                return
            rows = stored[theirs]
            if not lacking(columns, rows.column_names or []):
                rows = rows.select_columns([column.name for column in columns])
            batches = rows.iter(size)
        first, template = 0, f"{self.path}, split {theirs!r}, row {{}} (from 0)"
        while True:
            with self._reached():
                batch = next(batches, None)
            if batch is None:
                return
            block = Dataset.from_dict(batch, features=rows.features)
            numbers = np.arange(first, first + len(block))
            yield add_origin(block, [template], np.zeros(len(block), dtype=np.int64), numbers)
            first += len(block)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Raise UserError where the Hub does not answer within the block."""
        try:
            with limited_waiting():
                yield
        except LOADING as error:
            raise not_loaded(self.path, self.name, error) from error


@dataclass(frozen=True)
class StreamedTables(Source):
    """Splits of a dataset of the Hub without a copy of its other splits on disk."""

    source: HubDataset

    def raw(self, columns: Sequence[Column]) -> DatasetDict:
        """The splits, each a table in memory."""
        read = {
            split: list(self.source.split_blocks(split, columns, BATCH))
            for split, theirs in self.source.splits.items()
            if theirs
        }
        return DatasetDict(
            {s: concatenate_datasets(blocks) for s, blocks in read.items() if blocks}
        )


@dataclass(kw_only=True)
class FileDataset(Source):
    """Local files, for each split a file, a folder of files or an Arrow folder; gz and zst too.

    Args:
        data_files: the path for each split.
        format: csv, json, parquet or arrow; None detects it for each file.
        delimiter: what separates the fields of csv files; None detects it.
        columns: the names of the columns of csv files without a header.
        quotes: whether double quotes in csv files hold a field together, or are text.
    """

    data_files: dict[str, str | None]
    format: Kind | None = None
    delimiter: str | None = None
    columns: list[str] | None = None
    quotes: bool = True

    def files_hash(self) -> str | None:
        return files_hash(self.data_files)

    @property
    def form(self) -> CsvFormat:
        return CsvFormat(delimiter=self.delimiter, columns=self.columns, quotes=self.quotes)

    def raw(self, columns: Sequence[Column]) -> DatasetDict:
        files = {split: expanded(name) for split, name in self.data_files.items() if name}
        if problems := self.form.problems():
            raise ConfigError(problems)
        read, problems = {}, []
        for split, path in files.items():
            try:
                read[split] = self._split(split, path, columns)
            except ConfigError as error:
                problems += error.problems
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError(problems)
        for split in files.keys() - {"train"}:
            if "train" in files and files[split].samefile(files["train"]):
                log.warning(
                    "dataset.data_files.%s is the training file: its scores say nothing about "
                    "unseen text",
                    split,
                )
        return DatasetDict(read)

    def unlabelled(self, path: Path, columns: Sequence[Column]) -> Dataset:
        return read_unlabelled(path, columns, self.form)

    def _split(self, split: str, path: Path, columns: Sequence[Column]) -> Dataset:
        _check_exists(split, path)
        return read_files(path, columns, self.format, self.form)

    def stream_problems(self) -> list[str]:
        if self.data_files.get("validation"):
            return []
        return [
            "dataset.streaming=true cannot split a share of the training rows off; set "
            "dataset.data_files.validation=FILE"
        ]

    def without_train(self) -> FileDataset:
        return replace(self, data_files={**self.data_files, "train": None})

    def train_hash(self) -> str:
        return files_hash({"train": self.data_files["train"]})

    def blocks(self, columns: Sequence[Column], size: int) -> Iterator[Dataset]:
        path = expanded(str(self.data_files["train"]))
        _check_exists("train", path)
        yield from file_blocks(path, columns, size, self.format, self.form)


@dataclass(kw_only=True)
class BuiltDataset(Source):
    """A dataset made by code: `source` is a node whose `_target_` returns a DatasetDict."""

    source: dict[str, Any]

    def raw(self, columns: Sequence[Column]) -> DatasetDict:
        return build(self.source, "dataset.source", trusted=True)


def kept_rows(kind: str, key: str, make: Callable[[Path], None]) -> Dataset:
    """The rows that `make` saves to a folder, from the cache if it has them undamaged."""
    return datasets.load_from_disk(str(cached(kind, key, make)))


def _check_exists(split: str, path: Path) -> None:
    if not path.exists():
        raise UserError(f"dataset.data_files.{split}: there is no file {path}")


def _split_problem(raw: Mapping[str, Dataset], split: str) -> str | None:
    if split not in raw:
        return f"the dataset has no split {split!r}; it has {', '.join(raw)}"
    return None if len(raw[split]) else f"split {split!r} has no rows"
