"""json files, one object a line or one list of objects; every value is text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsekit.data.columns import value_text
from sparsekit.data.compression import first_bytes, open_text
from sparsekit.data.schema import Column
from sparsekit.data.table import FileRows, Row, text_table
from sparsekit.errors import ConfigError, UserError

_LINES = "line {}"
_OBJECTS = "object {} (from 0)"


def read_json(path: Path, columns: Sequence[Column]) -> FileRows:
    """The objects of a list, or one object a line.

    Numbers and booleans become text. Lists are kept in the columns of lists, and values of the
    columns of objects become JSON text. Elsewhere lists and objects are refused in `columns`, and
    dropped from others. Raises UserError that names the line and the fix.
    """
    read = {column.name: column for column in columns}
    lists = [column.name for column in columns if column.lists]
    start = first_bytes(path, 4096).decode("utf-8-sig", errors="replace").lstrip()[:1]
    template = _OBJECTS if start == "[" else _LINES
    values = _objects(path) if start == "[" else _lines(path)
    rows = ((number, _row(path, template.format(number), value, read)) for number, value in values)
    return text_table(rows, f"{path}, {template}", lists)


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    with open_text(path) as file:
        try:
            objects = json.loads(file.read())
        except (json.JSONDecodeError, RecursionError) as error:
            raise _not_json(path, "line 1", error) from error
    yield from enumerate(objects)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if text := line.strip():
                try:
                    yield number, json.loads(text)
                except (json.JSONDecodeError, RecursionError) as error:
                    raise _not_json(path, f"line {number}", error) from error


def _row(path: Path, where: str, value: Any, columns: Mapping[str, Column]) -> Row:
    if not isinstance(value, dict):
        raise UserError(
            f"cannot read {path} as json: {where} is not an object; write one object per line, "
            "or one list of objects"
        )
    return {name: _cell(path, where, each, columns.get(name)) for name, each in value.items()}


def _cell(
    path: Path, where: str, value: Any, column: Column | None
) -> str | list[str | None] | None:
    if column is None:
        return None if isinstance(value, list | dict) else value_text(value)
    if column.lists:
        return _texts(path, where, column.name, value)
    if column.objects:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | dict):
        raise ConfigError(
            [
                f"{path}, {where}: column {column.name!r} holds lists or objects, not one text or "
                f"label for each row; set {column.key} to a column of text, numbers or names"
            ]
        )
    return value_text(value)


def _texts(path: Path, where: str, name: str, value: Any) -> list[str | None] | None:
    if value is None:
        return None
    if not isinstance(value, list) or any(isinstance(each, list | dict) for each in value):
        raise UserError(
            f"{path}, {where}: column {name!r} holds {value!r:.60}, not a list of texts or numbers"
        )
    return [value_text(each) for each in value]


def _not_json(path: Path, where: str, error: Exception) -> UserError:
    return UserError(
        f"cannot read {path} as json: {where}: {error}; write one object per line, or one list of "
        "objects"
    )
