"""Filters for rows without a text or label, and for rows with unwanted labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset

from sparsekit.data.class_labels import names_of
from sparsekit.data.columns import select, value_text, values
from sparsekit.data.schema import Column
from sparsekit.data.splits import Mask

log = logging.getLogger(__name__)


def empty_rows(rows: Dataset, columns: Sequence[Column]) -> Mask:
    """Whether a row lacks a text or label that it needs, [rows]."""
    empty = np.zeros(len(rows), dtype=bool)
    for column in columns:
        if column.name in rows.column_names and column.role not in ("optional text", "labels"):
            empty |= np.fromiter(map(is_blank, values(rows, column.name)), bool, len(rows))
    return empty


def is_blank(value: Any) -> bool:
    """Whether a value is empty: None, nan, an empty list, or a text of blanks."""
    if isinstance(value, list):
        return not value
    text = value_text(value)
    return text is None or not text.strip()


def without_labels(
    splits: Mapping[str, Dataset], column: Column, dropped: Sequence[str | int | None]
) -> dict[str, Dataset]:
    """The splits without rows whose label is one of `dropped`, a name, a number or None.

    A number is that of a class in train, whatever the order in another split.

    column: that of the labels, which says what makes two of them one.
    """
    label = column.name
    unwanted = {value_text(value) for value in dropped}
    train = splits["train"].features.get(label) if "train" in splits else None
    numbered = {str(i): name for i, name in enumerate(names_of(train))}
    kept, found = {}, set()
    for split, rows in splits.items():
        if label not in rows.column_names:
            kept[split] = rows
            continue
        names = names_of(rows.features[label])
        # A class of the name "1" is meant before the class of the number 1.
        named = {t: t if not names or t in names else numbered.get(str(t), t) for t in unwanted}
        numbers = {t: str(names.index(n)) if n in names else n for t, n in named.items()}
        meant = {t: _normal(n, column) for t, n in numbers.items()}
        labels = [_normal(value_text(value), column) for value in values(rows, label)]
        dropped_values = set(meant.values())
        occurring = set(labels)
        found |= {text for text in unwanted if meant[text] in occurring}
        mask = np.array([text not in dropped_values for text in labels], dtype=bool)
        log.info("dataset.drop_labels: %d rows of %s are left out", (~mask).sum(), split)
        kept[split] = _renumbered(select(rows, mask), label, dropped_values)
    for value in unwanted - found:
        name = "null" if value is None else value
        log.warning("dataset.drop_labels: no row has the label %s", name)
    return kept


def _normal(text: str | None, column: Column) -> str | None:
    """A label as its task compares it; None is a missing label, which blanks alone are too."""
    if text is None or not text.strip():
        return None
    text = text.strip() if column.strip else text
    return text.casefold() if column.ignore_case else text


def _renumbered(rows: Dataset, label: str, dropped: set[str | None]) -> Dataset:
    """`rows` whose ClassLabel column has no more names of classes with the numbers `dropped`."""
    feature = rows.features[label]
    if not isinstance(feature, ClassLabel):
        return rows
    left = [name for i, name in enumerate(feature.names) if str(i) not in dropped]
    if left == feature.names:
        return rows
    position = {feature.names.index(name): i for i, name in enumerate(left)}
    numbers = [position.get(value, value) for value in values(rows, label)]
    return rows.remove_columns(label).add_column(
        label, pa.array(numbers, pa.int64()), feature=ClassLabel(names=left)
    )
