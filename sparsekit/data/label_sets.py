"""Any number of labels for each row: columns of 0 and 1, or one column of lists of names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from datasets import ClassLabel, Dataset, Value

from sparsekit.data.class_labels import namer, names_of
from sparsekit.data.columns import item_feature, value_text, values
from sparsekit.data.labels import is_number
from sparsekit.data.origin import where, with_origin
from sparsekit.errors import ConfigError

# Whether each row has each label: 0.0 or 1.0, [rows, labels].
Indicators = npt.NDArray[np.float32]
# How the values of a column of 0 and 1 may be written, as text in lower case.
_FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
# Labels that an error lists.
_SHOWN = 10


def indicators_of_columns(
    raw: Mapping[str, Dataset], columns: Sequence[str]
) -> dict[str, Indicators]:
    """For each split whether a row has the label that each of `columns` is named after.

    Raises ConfigError that names the rows with a value that is neither 0 nor 1.
    """
    problems, found = [], {}
    for split, each in raw.items():
        rows = with_origin(each, split)
        read = []
        for name in columns:
            texts = list(map(value_text, values(rows, name)))
            flags = [_FLAGS.get((text or "").strip().lower(), math.nan) for text in texts]
            if wrong := [row for row, flag in enumerate(flags) if math.isnan(flag)]:
                problems.append(
                    f"{where(rows, wrong)}: column {name!r} holds {texts[wrong[0]]!r}, neither 0 "
                    "nor 1; write 1 where the row has the label and 0 where it has not, or leave "
                    "the column out of dataset.label_columns"
                )
            read.append(flags)
        found[split] = np.array(read, dtype=np.float32).T
    if problems:
        raise ConfigError(problems)
    return found


def indicators_of_lists(
    raw: Mapping[str, Dataset], column: str, separator: str | None = None
) -> tuple[list[str], dict[str, Indicators]]:
    """The names of the labels in order, and for each split whether a row has each of them.

    A list of a ClassLabel has names and an order of its own. Other labels are compared as text
    without the blanks around them, and sorted, by value where all of them are numbers.

    Args:
        raw: the splits, `train` among them.
        column: each row holds a list of names, empty where it has no label.
        separator: what joins the names, if the column holds text; an empty text is no label.

    Raises ConfigError for columns of another type, for missing lists, and for labels that the
    training split lacks.
    """
    placed = {split: with_origin(rows, split) for split, rows in raw.items()}
    if problems := [p for s, rows in placed.items() for p in _type(s, rows, column, separator)]:
        raise ConfigError(problems)
    missing = [] if separator else [p for rows in placed.values() for p in _missing(rows, column)]
    if missing:
        raise ConfigError(missing)
    sets = {split: list(_names(rows, column, separator)) for split, rows in placed.items()}
    classes = [name.strip() for name in names_of(raw["train"].features[column])]
    names = classes or _sorted({*_flat(sets["train"])})
    index = {name: i for i, name in enumerate(names)}
    for split, rows in placed.items():
        problems += _unknown(rows, column, sets[split], index)
    if not names:
        problems.append(f"column {column!r} has no label in train; at least 1 is needed")
    if problems:
        raise ConfigError(problems)
    return list(names), {split: _indicators(each, index) for split, each in sets.items()}


def _type(split: str, rows: Dataset, column: str, separator: str | None) -> Iterator[str]:
    """The problem of a column that holds neither lists nor, with a separator, text."""
    feature = rows.features[column]
    if separator:
        if getattr(feature, "dtype", None) not in ("string", "large_string", "null"):
            yield (
                f"split {split!r}, column {column!r} holds no text that {separator!r} could "
                "separate; leave out dataset.label_separator"
            )
    elif not isinstance(item_feature(feature), Value | ClassLabel):
        yield (
            f"split {split!r}, column {column!r} holds no list in each row; set "
            'dataset.label_column to a column of lists, such as ["joy", "love"], or name what '
            "separates the labels in a text: dataset.label_separator=,"
        )


def _missing(rows: Dataset, column: str) -> Iterator[str]:
    """The problem of rows without a list."""
    missing = [row for row, labels in enumerate(values(rows, column)) if labels is None]
    if missing:
        yield (
            f"{where(rows, missing)}: column {column!r} has no list in {len(missing)} of "
            f"{len(rows)} rows; write [] for a row without labels, or remove it"
        )


def _names(rows: Dataset, column: str, separator: str | None) -> Iterator[list[str]]:
    """The labels of each row as text."""
    text = namer(names_of(rows.features[column]))
    for value in values(rows, column):
        if separator:
            parts = [part.strip() for part in (value or "").split(separator)]
            yield [part for part in parts if part]
        else:
            yield [(text(label) or "").strip() for label in value]


def _unknown(
    rows: Dataset, column: str, sets: Sequence[Sequence[str]], index: Mapping[str, int]
) -> Iterator[str]:
    """The problem of labels that are empty, or that train does not have."""
    wrong = [
        (row, name)
        for row, names in enumerate(sets)
        for name in names
        if not name or name not in index
    ]
    if wrong:
        places = where(rows, list(dict.fromkeys(row for row, _ in wrong)))
        known = ", ".join(list(index)[:_SHOWN])
        more = f" and {len(index) - _SHOWN} more" if len(index) > _SHOWN else ""
        problem = "is empty" if not wrong[0][1] else f"is not one of train's: {known}{more}"
        yield (
            f"{places}: column {column!r}: label {wrong[0][1]!r} {problem}; correct it, or remove "
            "it from the list"
        )


def _sorted(names: set[str]) -> list[str]:
    """Names in order, by value where all of them are numbers; an empty name is none."""
    kept = sorted(names - {""})
    return sorted(kept, key=float) if all(map(is_number, kept)) else kept


def _flat(sets: Sequence[Sequence[str]]) -> Iterator[str]:
    for names in sets:
        yield from names


def _indicators(sets: Sequence[Sequence[str]], index: Mapping[str, int]) -> Indicators:
    found = np.zeros((len(sets), len(index)), dtype=np.float32)
    for row, names in enumerate(sets):
        found[row, [index[name] for name in names]] = 1.0
    return found
