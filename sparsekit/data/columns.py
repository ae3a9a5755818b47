"""Columns of a data set: read from Arrow in batches, and their values as text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, DatasetInfo, LargeList, List
from datasets.table import InMemoryTable

# Values at a time that exist as Python objects.
BATCH = 10_000


def stored(rows: Dataset, name: str) -> pa.ChunkedArray:
    """The column as it is stored in Arrow."""
    return rows.select_columns([name]).with_format("arrow")[:][name]


def values(rows: Dataset, name: str) -> Iterator[Any]:
    """The values of a column in order, as Python objects."""
    column = stored(rows, name)
    for start in range(0, len(column), BATCH):
        yield from column.slice(start, BATCH).to_pylist()


def select(rows: Dataset, mask: npt.NDArray[np.bool_]) -> Dataset:
    """The rows where `mask` [rows] is true, as a table of their own.

    `Dataset.select` keeps the whole table and a list of rows, which it then reads one by one.
    """
    if mask.all():
        return rows
    table = rows.with_format("arrow")[:].filter(pa.array(mask))
    return Dataset(InMemoryTable(table), info=DatasetInfo(features=rows.features))


def item_feature(feature: Any) -> Any:
    """The feature of the items of a column of lists, of either size; None for another column."""
    return feature.feature if isinstance(feature, List | LargeList) else None


def value_text(value: Any) -> str | None:
    """A value as text: whole numbers without a fraction, None and nan as None.

    >>> value_text(1.0), value_text("1.0"), value_text(True), value_text(float("nan"))
    ('1', '1.0', 'True', None)
    """
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return None if value is None else str(value)
