"""Datasets: loaded, checked and converted to one form; tokenized once and cached.

Every dataset becomes `TextData`: splits with the columns `text`, optionally `text_pair`, and
`label` (an integer, never -1). Tokenized splits have `input_ids`, `attention_mask`, further
inputs of the model, `labels` and `length`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value
from datasets.exceptions import DatasetNotFoundError
from transformers import PreTrainedTokenizerBase

from sparsekit import metrics
from sparsekit.cache import cached, content_hash
from sparsekit.config.build import build
from sparsekit.data.delimited import CsvFormat
from sparsekit.data.file_kinds import Kind
from sparsekit.data.fingerprint import files_hash
from sparsekit.data.labels import LabelCase, is_number, number_labels
from sparsekit.data.origin import column_names
from sparsekit.data.readers import read_files
from sparsekit.errors import ConfigError, UserError

log = logging.getLogger(__name__)

REQUIRED_SPLITS = ("train", "validation")
SPLITS = (*REQUIRED_SPLITS, "test")
# One token of each of two texts, and the three special tokens around them.
MIN_LENGTH = 5


@dataclass(frozen=True)
class TextData:
    """Text classification data in one form, regardless of its source."""

    splits: dict[str, Dataset]
    label_names: list[str]
    max_length: int

    def with_label_order(self, names: Sequence[str]) -> TextData:
        """The same data with labels numbered in the order of `names`, a permutation of
        `label_names`.
        """
        position = np.array([names.index(name) for name in self.label_names])
        splits = {}
        for split, rows in self.splits.items():
            labels = position[np.array(rows["label"])].tolist()
            splits[split] = rows.remove_columns("label").add_column("label", labels)
        return replace(self, splits=splits, label_names=list(names))

    def fingerprint(self, split: str) -> str:
        """A hash of the split's texts and labels."""
        rows = self.splits[split]
        pairs = rows["text_pair"] if "text_pair" in rows.column_names else []
        labels = [self.label_names[label] for label in rows["label"]]
        return content_hash([*rows["text"], *pairs, *labels])


@dataclass(kw_only=True)
class TextClassification:
    """The fields of every dataset's config: one or two text columns, a label column, metrics."""

    text_columns: list[str]
    label_column: str
    max_length: int = 128
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    label_case: LabelCase = "refuse"

    @property
    def needed_columns(self) -> list[str]:
        """The columns that a file must have."""
        return [*self.text_columns, self.label_column]

    def raw(self) -> DatasetDict:
        """The splits as they are stored; raises UserError when they cannot be read."""
        raise NotImplementedError

    def files_hash(self) -> str | None:
        """A hash of the local files that hold the data; None where the config alone names them."""
        return None

    def load(self) -> TextData:
        """The data in one form; raises ConfigError with all problems of columns and rows."""
        if not 1 <= len(self.text_columns) <= 2:
            raise ConfigError(
                [f"dataset.text_columns {self.text_columns} must name 1 or 2 columns"]
            )
        if self.max_length < MIN_LENGTH:
            raise ConfigError(
                [
                    f"dataset.max_length {self.max_length} leaves no room for text; set "
                    f"{MIN_LENGTH} or more"
                ]
            )
        raw = self.raw()
        problems = [
            problem
            for split in REQUIRED_SPLITS
            if (problem := _split_problem(raw, split)) is not None
        ] or [problem for split, rows in raw.items() for problem in self._problems(split, rows)]
        if problems:
            raise ConfigError(problems)
        names, labels = number_labels(raw, self.label_column, self.label_case)
        metrics.check_classes(self.metrics, len(names))
        return TextData({s: self._rows(raw[s], labels[s]) for s in labels}, names, self.max_length)

    def _problems(self, split: str, rows: Dataset) -> list[str]:
        columns = [*self.text_columns, self.label_column]
        missing = [name for name in columns if name not in rows.column_names]
        if missing:
            return [
                f"split {split!r} has no column {', '.join(missing)}; it has "
                f"{', '.join(column_names(rows))}; set dataset.text_columns and "
                "dataset.label_column"
            ]
        problems = []
        if not isinstance(rows.features[self.label_column], Value | ClassLabel):
            problems.append(
                f"split {split!r}, column {self.label_column!r} holds lists or objects, not one "
                "label for each row; set dataset.label_column to a column of numbers or names"
            )
        for column in self.text_columns:
            kind = getattr(rows.features[column], "dtype", "no plain value")
            if kind in ("string", "large_string") and _all_numbers(rows[column]):
                kind = "numbers"
            if kind not in ("string", "large_string", "null"):
                problems.append(
                    f"split {split!r}, column {column!r} holds {kind}, not text; set "
                    "dataset.text_columns to a column of text"
                )
                continue
            for row, text in enumerate(rows[column]):
                if not isinstance(text, str) or not text.strip():
                    problems.append(
                        f"split {split!r}, column {column!r}, row {row} (from 0): {text!r} is no "
                        "text; remove the row or fill it"
                    )
                    break
        return problems

    def _rows(self, rows: Dataset, labels: list[int]) -> Dataset:
        names = dict(zip(self.text_columns, ("text", "text_pair"), strict=False))
        columns = {new: list(rows[old]) for old, new in names.items()}
        return Dataset.from_dict({**columns, "label": labels})


@dataclass(kw_only=True)
class HubDataset(TextClassification):
    """A dataset of the Hugging Face Hub; `splits` maps our split names to the dataset's names."""

    path: str
    name: str | None = None
    revision: str | None = None
    splits: dict[str, str | None] = field(default_factory=lambda: {s: s for s in SPLITS})

    def raw(self) -> DatasetDict:
        try:
            stored = datasets.load_dataset(self.path, self.name, revision=self.revision)
        except (DatasetNotFoundError, OSError, ValueError) as error:
            raise UserError(
                f"cannot load the dataset {self.path!r} from the Hub: {error}\n"
                "Check the id and the connection, or use local files: dataset=csv "
                "dataset.data_files.train=FILE dataset.data_files.validation=FILE"
            ) from error
        return DatasetDict(
            {ours: stored[theirs] for ours, theirs in self.splits.items() if theirs in stored}
        )


@dataclass(kw_only=True)
class FileDataset(TextClassification):
    """Local files, for each split a file, a folder of files or an Arrow folder; gz and zst too.

    Args:
        data_files: the path for each split.
        format: csv, json, parquet or arrow; None finds it out from each file.
        delimiter: what separates the fields of csv files; None finds it out.
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

    def raw(self) -> DatasetDict:
        files = {split: Path(name) for split, name in self.data_files.items() if name}
        form = CsvFormat(delimiter=self.delimiter, columns=self.columns, quotes=self.quotes)
        if problems := form.problems():
            raise ConfigError(problems)
        read, problems = {}, []
        for split, path in files.items():
            try:
                read[split] = self._split(split, path, form)
            except ConfigError as error:
                problems += error.problems
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError(problems)
        for split in files.keys() - {"train"}:
            if files[split].samefile(files["train"]):
                log.warning(
                    "dataset.data_files.%s is the training file: its scores say nothing about "
                    "unseen text",
                    split,
                )
        return DatasetDict(read)

    def _split(self, split: str, path: Path, form: CsvFormat) -> Dataset:
        if not path.exists():
            raise UserError(f"dataset.data_files.{split}: there is no file {path}")
        return read_files(path, self.needed_columns, self.format, form)


@dataclass(kw_only=True)
class BuiltDataset(TextClassification):
    """A dataset made by code: `source` is a node whose `_target_` returns a DatasetDict."""

    source: dict[str, Any]

    def raw(self) -> DatasetDict:
        return build(self.source, "dataset.source", trusted=True)


def tokenize(
    data: TextData, tokenizer: PreTrainedTokenizerBase, tokenizer_hash: str
) -> dict[str, Dataset]:
    """The splits as model inputs, from the cache if the same texts were tokenized before."""
    return {split: _tokenize(data, split, tokenizer, tokenizer_hash) for split in data.splits}


def _tokenize(
    data: TextData, split: str, tokenizer: PreTrainedTokenizerBase, tokenizer_hash: str
) -> Dataset:
    def make(folder: Path) -> None:
        rows = data.splits[split]
        texts = [list(rows[c]) for c in ("text", "text_pair") if c in rows.column_names]
        columns = dict(tokenizer(*texts, truncation=True, max_length=data.max_length))
        columns["length"] = [len(ids) for ids in columns["input_ids"]]
        columns["labels"] = list(rows["label"])
        Dataset.from_dict(columns).save_to_disk(str(folder))

    # Models of one vocabulary may read different inputs: DistilBERT has no token types, BERT has.
    identity = [tokenizer_hash, *tokenizer.model_input_names, str(data.max_length)]
    key = content_hash([data.fingerprint(split), *identity, *data.label_names])
    return kept_rows("tokens", key, make)


def kept_rows(kind: str, key: str, make: Callable[[Path], None]) -> Dataset:
    """The rows that `make` saves to a folder, from the cache if it has them undamaged."""
    return datasets.load_from_disk(str(cached(kind, key, make)))


def _all_numbers(texts: Sequence[str | None]) -> bool:
    """Whether all texts but missing ones are numbers, as in a column of ids or scores."""
    found = [text for text in texts if text is not None]
    return bool(found) and all(map(is_number, found))


def _split_problem(raw: Mapping[str, Dataset], split: str) -> str | None:
    if split not in raw:
        return f"the dataset has no split {split!r}; it has {', '.join(raw)}"
    return None if len(raw[split]) else f"split {split!r} has no rows"
