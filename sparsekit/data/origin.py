"""The origin of a row: the file and line that an error message names.

Readers add two columns to the rows of a file, which stay with a row when others are dropped or
rows move to another split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Value

# Which template, such as "train.csv, line {}", and the number that it is filled in with.
PLACE, NUMBER = "__place__", "__number__"
# An error message names no more rows than this.
SHOWN = 5


def add_origin(
    rows: Dataset,
    templates: Sequence[str],
    places: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
) -> Dataset:
    """`rows` with their origin: for each row an index into `templates`, and a number."""
    features = Features({PLACE: ClassLabel(names=list(templates)), NUMBER: Value("int64")})
    for name, values in ((PLACE, places), (NUMBER, numbers)):
        rows = rows.add_column(name, pa.array(values), feature=features[name])
    return rows


def with_origin(rows: Dataset, split: str) -> Dataset:
    """`rows` with their origin; rows that no reader gave one are numbered within `split`."""
    if PLACE in rows.column_names:
        return rows
    places = np.zeros(len(rows), dtype=np.int64)
    return add_origin(rows, [f"split {split!r}, row {{}} (from 0)"], places, np.arange(len(rows)))


def place(template: str, number: int) -> str:
    """The template with the number of a row."""
    return str(number).join(_around(template))


def _around(template: str) -> tuple[str, str]:
    """What stands before and after the number: the path before it may hold braces too."""
    before, _, after = template.rpartition("{}")
    return before, after


def column_names(rows: Dataset) -> list[str]:
    """The columns that the source of `rows` has."""
    return [name for name in rows.column_names if name not in (PLACE, NUMBER)]


def where(rows: Dataset, indices: Sequence[int]) -> str:
    """The places of rows, as in "train.csv, line 7" and "train.csv, lines 7, 9 and 2 more".

    Rows of the first row's file are listed; those of other files count as more.
    """
    shown = rows.select_columns([PLACE, NUMBER]).select(list(indices[:SHOWN]))[:]
    first = shown[PLACE][0]
    same = [n for place, n in zip(shown[PLACE], shown[NUMBER], strict=True) if place == first]
    numbers = ", ".join(map(str, same))
    if len(indices) > len(same):
        numbers += f" and {len(indices) - len(same)} more"
    before, after = _around(rows.features[PLACE].int2str(first))
    return f"{before.rstrip()}{'s' if len(indices) > 1 else ''} {numbers}{after}"
