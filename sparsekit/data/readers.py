"""Local data files: csv and json, every value read as text.

No type is guessed: a label `01` stays `01`, and what a column holds is decided over all splits, in
`labels`. A path is the file it names, never a pattern, and nothing is kept between runs, so that a
file that was rewritten is read again whatever its modification time.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable

from sparsekit.errors import ConfigError, UserError

Row = dict[str, str | None]
# Rows at a time on their way from Python to Arrow.
BATCH = 10_000
# The csv module's own limit, 131,072 characters, would refuse long documents.
LONGEST_FIELD = 2**31 - 1


def read_file(path: Path, form: str, columns: Sequence[str]) -> Dataset:
    """The rows of a csv or json file, each column as text; None is what is missing.

    An empty field of a csv file is missing; "NA" or "null" is text. In a json file numbers and
    booleans become text, `1` and `1.0` both "1"; lists and objects are refused in `columns`, and
    dropped elsewhere. Raises UserError that names the line and the fix.
    """
    read = _csv_rows if form == "csv" else _json_rows
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = read(path, file, columns)
            tables = [_table(batch) for batch in iter(lambda: list(islice(rows, BATCH)), [])]
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path} as {form}: {error}; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}; the file must be readable") from error
    if not tables:
        raise UserError(f"{path} has no rows")
    return Dataset(InMemoryTable(pa.concat_tables(tables, promote_options="default")))


def _table(rows: Sequence[Row]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table(
        {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    )


def _csv_rows(path: Path, file: TextIO, columns: Sequence[str]) -> Iterator[Row]:
    """The rows below the header; columns without a name are left out."""
    # Strict: text after a closing quote is an error, as is a quote that is still open at the end.
    reader = csv.reader(file, strict=True)
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            with _long_fields():
                fields = next(reader, None)
        except csv.Error as error:
            raise UserError(_unclosed(path, line, reader.line_num, error)) from error
        if fields is None:
            return
        if names is None:
            names = fields
            _refuse_repeated(path, names)
        elif len(fields) > len(names):
            raise UserError(
                f"cannot read {path} as csv: line {line} has more fields than the header, "
                f"{len(fields)} instead of {len(names)}; separate fields by commas, and put text "
                'with commas in "quotes"'
            )
        elif fields:  # not a blank line
            values = [*fields, *[""] * (len(names) - len(fields))]
            yield {name: text or None for name, text in zip(names, values, strict=True) if name}


def _refuse_repeated(path: Path, names: Sequence[str]) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if repeated:
        raise UserError(
            f"{path} has more than one column {', '.join(repeated)}; rename or remove the others"
        )


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module's limit of a field, which is one for the whole process, out of the way."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _unclosed(path: Path, first: int, last: int, error: csv.Error) -> str:
    where = f"line {first}" if last <= first else f"the row of lines {first} to {last}"
    return (
        f"cannot read {path} as csv: {where} has a quote that is not closed, or text after a "
        f'closing one ({error}); put the whole text in "quotes", and write a quote in it twice, ""'
    )


def _json_rows(path: Path, file: TextIO, columns: Sequence[str]) -> Iterator[Row]:
    """The objects of a list, or one object per line."""
    for where, value in _json_values(path, file):
        if not isinstance(value, dict):
            raise UserError(
                f"cannot read {path} as json: {where} is not an object; write one object per line, "
                "or one list of objects"
            )
        yield {name: _text(path, where, name, value[name], columns) for name in value}


def _json_values(path: Path, file: TextIO) -> Iterator[tuple[str, Any]]:
    where = "line 1"
    try:
        start = file.read(4096).lstrip()[:1]
        file.seek(0)
        if start == "[":
            for index, value in enumerate(json.loads(file.read())):
                yield f"object {index} (from 0)", value
            return
        for number, line in enumerate(file, start=1):
            where = f"line {number}"
            if text := line.strip():
                yield where, json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(
            f"cannot read {path} as json: {where}: {error}; write one object per line, or one list "
            "of objects"
        ) from error


def _text(path: Path, where: str, name: str, value: Any, columns: Sequence[str]) -> str | None:
    if isinstance(value, list | dict):
        if name not in columns:
            return None
        raise ConfigError(
            [
                f"{path}, {where}: column {name!r} holds lists or objects, not one text or label "
                "for each row; set dataset.text_columns and dataset.label_column to columns of "
                "text, numbers or names"
            ]
        )
    return value_text(value)


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
