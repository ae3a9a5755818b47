"""json files, one object a line or one list of objects; every value is text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsekit.data.columns import value_text
from sparsekit.data.compression import first_bytes, open_text
from sparsekit.data.schema import Column
from sparsekit.data.table import FileRows, Row, text_table, text_tables
from sparsekit.errors import ConfigError, UserError, parse_json

_LINES = "line {}"
_OBJECTS = "object {} (from 0)"


def read_json(path: Path, columns: Sequence[Column]) -> FileRows:
    """The objects of a list, or one object a line.

    Numbers and booleans become text. Lists are kept in the columns of lists, and values of the
    columns of objects become JSON text. Elsewhere lists and objects are refused in `columns`, and
    dropped from others. Raises UserError that names the line and the fix.
    """
    if not _is_list(path):
        return text_table(_rows(path, _lines(path), _LINES, columns), *_form(path, _LINES, columns))
    rows = _rows(path, _objects(path), _OBJECTS, columns)
    return text_table(rows, *_form(path, _OBJECTS, columns))


def json_lines(path: Path, columns: Sequence[Column], size: int) -> Iterator[FileRows]:
    """One object a line, `size` at a time; raises UserError for a list of objects too."""
    if _is_list(path):
        raise UserError(
            f"dataset.streaming=true cannot read {path}, one list of objects, in parts; write one "
            "object a line (jsonl)"
        )
    rows = _rows(path, _lines(path), _LINES, columns)
    yield from text_tables(rows, *_form(path, _LINES, columns), size=size)


def _is_list(path: Path) -> bool:
    start = first_bytes(path, 4096).decode("utf-8-sig", errors="replace").lstrip()
    return start.startswith("[")


def _form(path: Path, template: str, columns: Sequence[Column]) -> tuple[str, list[str]]:
    """What names a row by its number, and the columns of lists."""
    return f"{path}, {template}", [column.name for column in columns if column.lists]


def _rows(
    path: Path, values: Iterator[tuple[int, Any]], template: str, columns: Sequence[Column]
) -> Iterator[tuple[int, Row]]:
    read = {column.name: column for column in columns}
    for number, value in values:
        yield number, _row(path, template.format(number), value, read)


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    with open_text(path) as file:
        content = file.read()
    try:
        objects = parse_json(content)
    except ValueError as error:
        raise _not_json(path, "line 1", error) from error
    yield from enumerate(objects)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if text := line.strip():
                try:
                    value = parse_json(text)
                except ValueError as error:
                    raise _not_json(path, f"line {number}", error) from error
                yield number, value


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
