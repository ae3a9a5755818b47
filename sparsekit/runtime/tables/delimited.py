"""Tables of fields between delimiters: csv, tsv and the like."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from sparsekit.data.compression import bare_suffix
from sparsekit.data.long_fields import long_fields
from sparsekit.errors import UserError, first_line
from sparsekit.runtime.tables.base import NewValues, Part, cell

DELIMITERS = ",\t;|"
TAB_SUFFIXES = (".tsv", ".tab")
# The csv writer quotes fields with a character of its line terminator. Each of these, unquoted, is
# read back as something else: as the end of a row, or of a file's first cell as a byte order mark.
_QUOTED = "\r\n\ufeff"


@dataclass(frozen=True)
class DelimitedPart:
    """Rows of fields and the line that each begins in."""

    columns: Sequence[str]
    lines: Sequence[int]
    rows: Sequence[list[str]]

    def __len__(self) -> int:
        return len(self.rows)

    def values(self, column: str) -> list[Any]:
        index = self.columns.index(column)
        return [row[index] or None for row in self.rows]

    def where(self, row: int) -> str:
        return f"line {self.lines[row]}"


class DelimitedTable:
    """A csv file with a header, whose delimiter is the one that divides the header most."""

    binary = False

    def __init__(self, path: Path, lines: Iterator[str]) -> None:
        self._path = path
        first, self._before = next(lines, ""), 0
        while first.isspace():
            first, self._before = next(lines, ""), self._before + 1
        self._end = "\r\n" if first.endswith("\r\n") else "\n"
        self._delimiter = _delimiter(path, first)
        # A header may have a quoted line break, so the reader gets the whole text.
        self._reader = csv.reader(chain([first], lines), delimiter=self._delimiter, strict=True)
        _, header = next(self._rows(), (1, []))
        if not header:
            raise UserError(f"{path} has no header; its first line must name the columns")
        self.columns: list[str] = [name.strip() for name in header]
        self._header = header

    def parts(self, rows: int) -> Iterator[Part]:
        found = self._rows()
        while part := list(islice(found, rows)):
            yield DelimitedPart(
                self.columns,
                [line for line, _ in part],
                [self._padded(line, fields) for line, fields in part],
            )

    @contextmanager
    def writer(self, file: IO[bytes], example: Mapping[str, Any]) -> Iterator[DelimitedWriter]:
        output = csv.writer(
            _Utf8(file, self._end), delimiter=self._delimiter, lineterminator=_QUOTED
        )
        output.writerow([*self._header, *example])
        yield DelimitedWriter(output, list(example))

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """The fields of each row that is not blank, after the line that it begins in."""
        while True:
            line = self._before + self._reader.line_num + 1
            try:
                with long_fields():
                    fields = next(self._reader, None)
            except csv.Error as error:
                raise UserError(
                    f"cannot read {self._path} as csv: the row in line {line} has a quote that is "
                    f"not closed, or text after a closing one ({first_line(error)}); put the whole "
                    'text in "quotes", and write a quote in it twice, ""'
                ) from error
            if fields is None:
                return
            if fields:
                yield line, fields

    def _padded(self, line: int, fields: list[str]) -> list[str]:
        if len(fields) > len(self.columns):
            raise UserError(
                f"cannot read {self._path} as csv: line {line} has {len(fields)} fields, the "
                f"header {len(self.columns)}; put text that has a {self._delimiter!r} in "
                '"quotes"'
            )
        return [*fields, *[""] * (len(self.columns) - len(fields))]


@dataclass(frozen=True)
class DelimitedWriter:
    """Writes rows of fields; values that are no text or number are JSON."""

    output: Any
    names: Sequence[str]

    def write(self, part: Part, answers: Sequence[NewValues]) -> None:
        assert isinstance(part, DelimitedPart)
        empty = [""] * len(self.names)
        for fields, answer in zip(part.rows, answers, strict=True):
            new = empty if answer is None else [cell(answer[name]) for name in self.names]
            self.output.writerow([*fields, *new])


@dataclass(frozen=True)
class _Utf8:
    """What the csv module writes to, a row at a time; each ends with `end`."""

    file: IO[bytes]
    end: str

    def write(self, text: str) -> int:
        return self.file.write((text.removesuffix(_QUOTED) + self.end).encode())


def _delimiter(path: Path, header: str) -> str:
    """That of the file's suffix if it divides the header, else the one that divides it most.

    >>> _delimiter(Path("rows.csv"), "text;label")
    ';'
    """
    first = "\t" if bare_suffix(path) in TAB_SUFFIXES else ","
    return first if first in header else max(DELIMITERS, key=header.count)
