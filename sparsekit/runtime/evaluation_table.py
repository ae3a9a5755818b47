"""What a run wrote of the rows that it evaluated, `evaluation/<split>.parquet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparsekit.errors import UserError, first_line
from sparsekit.runtime.tasks.base import Output


def read_columns(file: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """The columns `names`; raises UserError where the file cannot be read or lacks one."""
    try:
        table = pq.read_table(file, columns=list(names)).to_pydict()
        return {name: table[name] for name in names}
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(
            f"cannot read {file}: {first_line(error)}; it was cut short or changed: train again"
        ) from error


def read_texts(
    file: Path, names: Sequence[str], use: str, otherwise: str = ""
) -> dict[str, list[Any]]:
    """The columns of text `names`, as `read_columns`; raises UserError where none were kept.

    use: what the texts are for, as "to time"; otherwise: how to do without them, if that works.
    """
    try:
        kept = pq.read_schema(file).names
    except (OSError, pa.ArrowException):
        kept = list(names)  # read_columns says what is wrong with the file.
    if names[0] not in kept:
        raise UserError(
            f"{file} has no texts {use}: eval_dataset was tokenized without keeping its column of "
            f"text; keep it and train again{otherwise}"
        )
    return read_columns(file, names)


def as_outputs(
    columns: Mapping[str, Sequence[Any]], names: Sequence[str], per_token: bool
) -> dict[str, Output]:
    """The model's outputs `names` among the columns, one array or, per token, one a row."""
    if per_token:
        return {n: [np.array(row, dtype=np.float32) for row in columns[n]] for n in names}
    return {name: np.array(columns[name], dtype=np.float32) for name in names}
