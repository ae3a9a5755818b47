"""The contract of a file format: a table that is read, and written again, a part at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import IO, Any, Protocol

# The values of one row's new columns; None for a row that has no answer.
NewValues = Mapping[str, Any] | None


class Part(Protocol):
    """Some successive rows of a table."""

    def __len__(self) -> int:
        """The number of rows."""

    def values(self, column: str) -> list[Any]:
        """The values of a column, None where a cell is empty."""

    def where(self, row: int) -> str:
        """How messages name a row of this part, as "line 12"."""


class Writer(Protocol):
    """Writes the parts of a table again, in order."""

    def write(self, part: Part, answers: Sequence[NewValues]) -> None:
        """Append the rows of `part`, each with its new values."""


class Table(Protocol):
    """An open file.

    columns: the names of its columns; of JSON lines, those of the first line.
    binary: whether it is not for a terminal or a pipe.
    """

    columns: list[str]
    binary: bool

    def parts(self, rows: int) -> Iterator[Part]:
        """The rows in order, up to `rows` at a time. Raises UserError that names the line."""

    def writer(self, file: IO[bytes], example: Mapping[str, Any]) -> AbstractContextManager[Writer]:
        """Writes this table with new columns, last in each row; `example` is one row's values."""


def cell(value: Any) -> Any:
    """A value of an answer for a format without objects: numbers and texts stay, others are JSON.

    >>> cell(0.5), cell({"no": 0.5})
    (0.5, '{"no": 0.5}')
    """
    plain = value is None or isinstance(value, str | int | float)
    return value if plain else json.dumps(value, ensure_ascii=False)
