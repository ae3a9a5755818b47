"""Filters for rows without a text or label, and for rows with unwanted labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset

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
    splits: Mapping[str, Dataset], label: str, dropped: Sequence[str | int | None]
) -> dict[str, Dataset]:
    """The splits without rows whose label is one of `dropped`, a name, a number or None."""
    unwanted = {value_text(value) for value in dropped}
    kept, found = {}, set()
    for split, rows in splits.items():
        if label not in rows.column_names:
            kept[split] = rows
            continue
        labels = list(_label_texts(rows, label))
        found |= unwanted & {text for texts in labels for text in texts}
        mask = np.array([unwanted.isdisjoint(texts) for texts in labels], dtype=bool)
        log.info("dataset.drop_labels: %d rows of %s are left out", (~mask).sum(), split)
        kept[split] = _renumbered(select(rows, mask), label, unwanted)
    for value in unwanted - found:
        name = "null" if value is None else value
        log.warning("dataset.drop_labels: no row has the label %s", name)
    return kept


def _label_texts(rows: Dataset, label: str) -> Iterator[tuple[str | None, ...]]:
    """What may stand for the label of each row: its value as text, and the name of its class."""
    feature = rows.features[label]
    names = feature.names if isinstance(feature, ClassLabel) else []
    for value in values(rows, label):
        text = value_text(value)
        text = text.strip() or None if text is not None else None
        if names and value is not None and 0 <= value < len(names):
            yield text, names[value]
        else:
            yield (text,)


def _renumbered(rows: Dataset, label: str, dropped: set[str | None]) -> Dataset:
    """`rows` whose ClassLabel column has no more names of classes that were dropped."""
    feature = rows.features[label]
    if not isinstance(feature, ClassLabel):
        return rows
    left = [name for i, name in enumerate(feature.names) if dropped.isdisjoint((name, str(i)))]
    if left == feature.names:
        return rows
    position = {feature.names.index(name): i for i, name in enumerate(left)}
    numbers = [position.get(value, value) for value in values(rows, label)]
    return rows.remove_columns(label).add_column(
        label, pa.array(numbers, pa.int64()), feature=ClassLabel(names=left)
    )
