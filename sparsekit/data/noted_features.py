"""The features that `datasets` notes in a table's metadata, such as the names of classes."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Features

from sparsekit.errors import UserError, first_line

_KEY = b"huggingface"


def with_noted_features(path: Path, table: pa.Table, names: Collection[str]) -> pa.Table:
    """The table with the notes of the columns `names` alone, of the types that they describe.

    `datasets` ignores the note of a column of another type, so that classes which another tool
    saved as int32 would lose their names; and it cannot open a table that notes a feature which
    only a later version of it has, even of a column that nobody reads.

    Raises UserError for notes of these columns that cannot be read.
    """
    metadata = table.schema.metadata or {}
    if _KEY not in metadata:
        return table
    kept = {}
    for name, note in _notes(path, metadata[_KEY]).items():
        if name not in names or name not in table.column_names:
            continue
        try:
            wanted = Features.from_dict({name: note}).arrow_schema.field(name)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _unreadable(path, f"of column {name!r}", error) from error
        table = _cast(table, wanted)
        kept[name] = note
    own = json.dumps({"info": {"features": kept}}).encode()
    return table.replace_schema_metadata({**metadata, _KEY: own})


def _notes(path: Path, text: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(text).get("info", {}).get("features") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise _unreadable(path, "of its columns", error) from error


def _cast(table: pa.Table, wanted: pa.Field) -> pa.Table:
    """The table with a column of the wanted type; unchanged where its values do not fit.

    A stale note, as of a column of numbers that has been replaced by text, counts for nothing.
    """
    index = table.schema.get_field_index(wanted.name)
    field = table.schema.field(index)
    if field.equals(wanted):
        return table
    numbers = [_innermost(each.type) for each in (field, wanted)]
    if not all(map(pa.types.is_integer, numbers)):
        return table
    try:
        return table.set_column(index, wanted, table.column(index).cast(wanted.type))
    except pa.ArrowException:
        return table


def _innermost(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return kind


def _unreadable(path: Path, what: str, error: Exception) -> UserError:
    return UserError(
        f"{path} holds notes of `datasets` {what} that cannot be read: {first_line(error)}; save "
        "it with the installed version of `datasets`, or without them, as pandas does"
    )
