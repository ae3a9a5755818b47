"""Which rows of a data set are used, and for which split."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, DatasetDict

from sparsekit.data.columns import select, value_text, values
from sparsekit.data.datasets import Source
from sparsekit.data.duplicates import text_keys
from sparsekit.data.filters import empty_rows, without_labels
from sparsekit.data.near_duplicates import HashedTexts, near
from sparsekit.data.origin import where, with_origin
from sparsekit.data.schema import Column
from sparsekit.data.splits import Codes, share
from sparsekit.errors import ConfigError, UserError

log = logging.getLogger(__name__)

# The largest share that may be split off.
MOST = 0.9


@dataclass(kw_only=True)
class RowSelection:
    """Rows left out, and training rows that become the other splits.

    Args:
        validation_fraction: the share of the training rows that validates, of each class alike,
            where the data set has no validation split.
        test_fraction: likewise for testing, where it has no test split; 0 makes none.
        split_seed: another one splits off other rows. The run's own seed changes nothing.
        drop_empty: leave out rows without a text or without a label.
        drop_labels: leave out rows with these labels; null is a missing label.
        drop_leaked: leave out training rows whose text is also in validation or test, whatever
            its case, blanks and punctuation; "near": near-duplicates too, as
            `sparsekit.data.near_duplicates` finds them.
    """

    validation_fraction: float = 0.1
    test_fraction: float = 0.0
    split_seed: int = 0
    drop_empty: bool = False
    drop_labels: list[str | int | None] = field(default_factory=list)
    drop_leaked: bool | Literal["near"] = False

    def problems(self) -> list[str]:
        """What is wrong with the values, each with its fix."""
        fractions = {"validation": self.validation_fraction, "test": self.test_fraction}
        problems = [
            f"dataset.{name}_fraction is {fraction}; set a share from 0 to {MOST}, such as 0.1"
            for name, fraction in fractions.items()
            if not 0 <= fraction <= MOST
        ]
        if not problems and sum(fractions.values()) > MOST:
            problems.append(
                f"dataset.validation_fraction={self.validation_fraction} and "
                f"dataset.test_fraction={self.test_fraction} leave too few rows to train on; set "
                f"shares of {MOST} or less together"
            )
        return problems

    def applied(self, raw: Mapping[str, Dataset], columns: Sequence[Column]) -> dict[str, Dataset]:
        """The splits with the rows that are used, each row with its origin.

        Raises ConfigError for `drop_labels` where rows have no class.
        """
        splits = {split: with_origin(rows, split) for split, rows in raw.items()}
        classes = next((column for column in columns if column.role == "class"), None)
        label = None if classes is None else classes.name
        texts = [column.name for column in columns if column.is_text]
        if self.drop_empty:
            splits = {split: self._filled(rows, columns) for split, rows in splits.items()}
        if self.drop_labels:
            if classes is None:
                raise ConfigError(
                    [
                        "dataset.drop_labels is for rows with one class each, which this task does "
                        "not read; leave it out"
                    ]
                )
            splits = without_labels(splits, classes, self.drop_labels)
        if _has(splits.get("train"), texts):
            total = len(splits["train"])  # Both fractions are shares of it.
            for name, fraction in (
                ("test", self.test_fraction),
                ("validation", self.validation_fraction),
            ):
                if name not in splits and fraction:
                    splits = self._split_off(splits, name, fraction, total, texts, label)
            if self.drop_leaked:
                splits = _without_leaked(splits, texts, near_too=self.drop_leaked == "near")
        return splits

    def _filled(self, rows: Dataset, columns: Sequence[Column]) -> Dataset:
        empty = empty_rows(rows, columns)
        if empty.any():
            places = where(rows, np.flatnonzero(empty).tolist())
            log.warning("dataset.drop_empty: %d rows are left out: %s", empty.sum(), places)
        return select(rows, ~empty)

    def _split_off(
        self,
        splits: Mapping[str, Dataset],
        name: str,
        fraction: float,
        total: int,
        texts: Sequence[str],
        label: str | None,
    ) -> dict[str, Dataset]:
        rows = splits["train"]
        keys, classes = text_keys(rows, texts), _classes(rows, label)
        chosen = share(name, fraction * (total / max(len(rows), 1)), self.split_seed, keys, classes)
        if not chosen.any():
            raise UserError(
                f"dataset.{name}_fraction={fraction:g} of {total} rows is none; set "
                f"dataset.{name}_fraction=0.5, or give more rows"
            )
        log.warning(
            "%s is %d of the %d training rows, drawn by their text (dataset.%s_fraction=%g, "
            "dataset.split_seed=%d)",
            name,
            chosen.sum(),
            total,
            name,
            fraction,
            self.split_seed,
        )
        return {**splits, "train": select(rows, ~chosen), name: select(rows, chosen)}


@dataclass(frozen=True)
class SelectedRows(Source):
    """The rows of a source that a selection leaves, in their splits."""

    source: Source
    selection: RowSelection

    def files_hash(self) -> str | None:
        return self.source.files_hash()

    def unlabelled(self, path: Path, columns: Sequence[Column]) -> Dataset:
        return self.source.unlabelled(path, columns)

    def raw(self, columns: Sequence[Column]) -> DatasetDict:
        """The splits, each row with its origin; raises UserError when they cannot be read."""
        return DatasetDict(self.selection.applied(self.source.raw(columns), columns))

    def stream_problems(self) -> list[str]:
        problems = self.source.stream_problems()
        if self.selection.test_fraction:
            problems.append(
                f"dataset.test_fraction={self.selection.test_fraction} cannot be split off a "
                "stream; set it to 0, or give the test rows a file of their own"
            )
        if self.selection.drop_leaked:
            problems.append(
                "dataset.drop_leaked compares all training rows, which a stream never has at once; "
                "set it to false, and remove them from the file"
            )
        return problems

    def without_train(self) -> SelectedRows:
        return SelectedRows(self.source.without_train(), self._of_each_row())

    def train_hash(self) -> str | None:
        return self.source.train_hash()

    def blocks(self, columns: Sequence[Column], size: int) -> Iterator[Dataset]:
        selection = self._of_each_row()
        for block in self.source.blocks(columns, size):
            rows = selection.applied({"train": block}, columns)["train"]
            if len(rows):
                yield rows

    def _of_each_row(self) -> RowSelection:
        """The part of the selection that looks at one row at a time."""
        return replace(
            self.selection, validation_fraction=0.0, test_fraction=0.0, drop_leaked=False
        )


@dataclass(frozen=True)
class ReadRows(Source):
    """A source whose rows were read already."""

    splits: DatasetDict

    def raw(self, columns: Sequence[Column]) -> DatasetDict:
        """The splits."""
        return self.splits


def _has(rows: Dataset | None, names: Sequence[str]) -> bool:
    """Whether the split is there with these columns; the task names what is missing."""
    return rows is not None and all(name in rows.column_names for name in names)


def _classes(rows: Dataset, label: str | None) -> Codes:
    """The class of each row as an index; labels of different case or blanks are one."""
    if label is None or label not in rows.column_names:
        return np.zeros(len(rows), dtype=np.int64)
    texts = ((value_text(value) or "").strip().casefold() for value in values(rows, label))
    codes: Codes = np.unique(list(texts), return_inverse=True)[1]
    return codes


def _without_leaked(
    splits: Mapping[str, Dataset], texts: Sequence[str], *, near_too: bool
) -> dict[str, Dataset]:
    train = splits["train"]
    others = [rows for split, rows in splits.items() if split != "train"]
    keys = text_keys(train, texts)
    leaked = np.zeros(len(train), dtype=bool)
    for rows in others:
        leaked |= np.isin(keys, text_keys(rows, texts))
    if near_too:
        hashed = HashedTexts.of(train, texts)
        for rows in others:
            leaked |= near(hashed, HashedTexts.of(rows, texts)) >= 0
    if leaked.any():
        log.warning(
            "dataset.drop_leaked: %d training rows, %s validation or test, are left out: %s",
            leaked.sum(),
            "also or nearly in" if near_too else "also in",
            where(train, np.flatnonzero(leaked).tolist()),
        )
    return {**splits, "train": select(train, ~leaked)}
