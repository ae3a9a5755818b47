"""Scores: a column of finite numbers, which text files hold as text."""

from __future__ import annotations

import math
from typing import Any

from datasets import Dataset

from sparsekit.data.columns import values
from sparsekit.data.origin import where
from sparsekit.errors import ConfigError


def read_scores(rows: Dataset, column: str) -> list[float]:
    """The numbers of a column.

    Raises ConfigError that names the rows whose value is missing, no number, NaN or infinite.
    """
    found = list(map(_number, values(rows, column)))
    wrong = [row for row, number in enumerate(found) if not math.isfinite(number)]
    if wrong:
        value = rows[wrong[0]][column]
        # A NaN of a JSON file is read as None, as a missing value is.
        missing = value is None or value != value
        shown = "NaN or missing" if missing else repr(value)
        raise ConfigError(
            [
                f"{where(rows, wrong)}: column {column!r} has no finite number in {len(wrong)} of "
                f"{len(rows)} rows, such as {shown}; remove these rows or fill them"
            ]
        )
    return found


def _number(value: Any) -> float:
    """The value as a number; NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan
