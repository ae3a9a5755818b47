"""json files, one object a line or one list of objects; every value is text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsekit.data.columns import value_text
from sparsekit.data.compression import first_bytes, open_text
from sparsekit.data.table import FileRows, Row, text_table
from sparsekit.errors import ConfigError, UserError

_LINES = "line {}"
_OBJECTS = "object {} (from 0)"


def read_json(
    path: Path, needed: Sequence[str], lists: Sequence[str] = (), objects: Sequence[str] = ()
) -> FileRows:
    """The objects of a list, or one object a line.

    Numbers and booleans become text. Columns `lists` hold lists of these; those of `objects`
    become JSON text; elsewhere lists and
    objects are refused in the columns `needed`, and dropped from others. Raises UserError that
    names the line and the fix.
    """
    start = first_bytes(path, 4096).decode("utf-8-sig", errors="replace").lstrip()[:1]
    template = _OBJECTS if start == "[" else _LINES
    values = _objects(path) if start == "[" else _lines(path)
    rows = (
        (number, _row(path, template.format(number), value, needed, lists, objects))
        for number, value in values
    )
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


def _row(
    path: Path,
    where: str,
    value: Any,
    needed: Sequence[str],
    lists: Sequence[str],
    objects: Sequence[str],
) -> Row:
    if not isinstance(value, dict):
        raise UserError(
            f"cannot read {path} as json: {where} is not an object; write one object per line, "
            "or one list of objects"
        )
    return {
        name: _texts(path, where, name, value[name])
        if name in lists
        else _text(path, where, name, _plain(value[name], name in objects), needed)
        for name in value
    }


def _plain(value: Any, is_object: bool) -> Any:
    return json.dumps(value, ensure_ascii=False) if is_object else value


def _texts(path: Path, where: str, name: str, value: Any) -> list[str | None] | None:
    if value is None:
        return None
    if not isinstance(value, list) or any(isinstance(each, list | dict) for each in value):
        raise UserError(
            f"{path}, {where}: column {name!r} holds {value!r:.60}, not a list of texts or numbers"
        )
    return [value_text(each) for each in value]


def _text(path: Path, where: str, name: str, value: Any, needed: Sequence[str]) -> str | None:
    if isinstance(value, list | dict):
        if name not in needed:
            return None
        raise ConfigError(
            [
                f"{path}, {where}: column {name!r} holds lists or objects, not one text or label "
                "for each row; set dataset.text_columns and dataset.label_column to columns of "
                "text, numbers or names"
            ]
        )
    return value_text(value)


def _not_json(path: Path, where: str, error: Exception) -> UserError:
    return UserError(
        f"cannot read {path} as json: {where}: {error}; write one object per line, or one list of "
        "objects"
    )
