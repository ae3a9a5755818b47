"""csv, tsv and other files of fields between delimiters; every field is text."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from sparsekit.data.compression import bare_suffix
from sparsekit.data.long_fields import long_fields
from sparsekit.data.schema import Column, keys, lacking, listed
from sparsekit.data.table import Row
from sparsekit.errors import ConfigError, UserError, first_line

log = logging.getLogger(__name__)

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
# Begins the advice on how a file is written, in the error for columns that it lacks.
UNLESS_HEADER = "; for a file without a header set dataset.columns"
# What the delimiter is detected from.
_SAMPLE_CHARACTERS, _SAMPLE_ROWS = 2**18, 100


@dataclass(frozen=True, kw_only=True)
class CsvFormat:
    """How fields are written.

    Args:
        delimiter: one character; None detects it from the header and the first rows.
        columns: the names of the columns where the file has no header.
        quotes: whether double quotes hold a field together, or are text like any other character.
    """

    delimiter: str | None = None
    columns: Sequence[str] | None = None
    quotes: bool = True

    def problems(self) -> list[str]:
        """What is wrong with the values, each with its fix."""
        problems = []
        if self.delimiter is not None and (
            len(self.delimiter) != 1 or self.delimiter in '\r\n"' or not self.delimiter.isascii()
        ):
            problems.append(
                f"dataset.delimiter {self.delimiter!r} must be one character, such as ';' or, for "
                "a tab, \"dataset.delimiter='\\t'\"; leave it out to detect it"
            )
        names = self.columns
        if names is not None and (not names or len(set(names)) < len(names)):
            problems.append(
                f"dataset.columns {list(names)} must name each column of the file once, in order"
            )
        return problems

    def reader(self, lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """The fields of each row, after the line that it begins in."""
        # Strict: text after a closing quote is an error, as is a quote that is not closed.
        quoted = csv.reader(lines, delimiter=delimiter, strict=True)
        plain = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        reader = quoted if self.quotes else plain
        while True:
            first = reader.line_num + 1
            try:
                with long_fields():
                    fields = next(reader, None)
            except csv.Error as error:
                raise UnreadableRow(first, reader.line_num, error) from error
            if fields is None:
                return
            yield first, fields


class UnreadableRow(Exception):
    """A row with a quote that is not closed, from line `first` to line `last`."""

    def __init__(self, first: int, last: int, error: csv.Error) -> None:
        super().__init__(str(error))
        self.first, self.last = first, last


def csv_rows(
    path: Path, file: TextIO, form: CsvFormat, columns: Sequence[Column]
) -> Iterator[tuple[int, Row]]:
    """Each row below the header and its line; an empty field is None.

    Columns without a name are left out. `columns` are those that the task reads.
    """
    sample = file.read(_SAMPLE_CHARACTERS) + file.readline()
    delimiter = form.delimiter or _delimiter(path, sample, form, columns)
    names = None if form.columns is None else list(form.columns)
    try:
        for first, fields in form.reader(_lines(sample, file), delimiter):
            if not fields:
                continue  # a blank line
            if names is None:
                names = [name.strip() for name in fields]
                _check_header(path, names, columns, delimiter)
                continue
            if len(fields) > len(names):
                raise UserError(_too_many(path, first, len(fields), len(names), delimiter, form))
            if first == 1 and form.columns is not None:
                _refuse_header(path, fields, names)
            values = [*fields, *[""] * (len(names) - len(fields))]
            row = {name: text or None for name, text in zip(names, values, strict=True) if name}
            yield first, row
    except UnreadableRow as error:
        raise UserError(_unclosed(path, error)) from error


def _lines(start: str, rest: TextIO) -> Iterator[str]:
    """The lines of a text whose beginning, whole lines, was read already."""
    yield from io.StringIO(start, newline="")
    yield from rest


def _delimiter(path: Path, sample: str, form: CsvFormat, columns: Sequence[Column]) -> str:
    """The delimiter under which the header has the needed columns, or most rows have its width."""
    preferred = "\t" if bare_suffix(path) in (".tsv", ".tab") else ","
    candidates = [preferred, *(each for each in DELIMITERS if each != preferred)]
    scores = {each: _score(sample, form, each, columns) for each in candidates}
    # The first of equals: max keeps the order of candidates.
    best = max(candidates, key=lambda each: scores[each])
    if best != preferred:
        log.warning(
            "%s: fields are separated by %s; dataset.delimiter sets another", path, DELIMITERS[best]
        )
    return best


def _score(
    sample: str, form: CsvFormat, delimiter: str, columns: Sequence[Column]
) -> tuple[int, float]:
    """How well a delimiter fits: the needed columns in the header, then the share of rows as wide.

    A delimiter that separates nothing fits worst.
    """
    widths = []
    try:
        for _, fields in islice(form.reader(io.StringIO(sample), delimiter), _SAMPLE_ROWS):
            if fields:
                widths.append(fields)
    except UnreadableRow:
        pass  # A quote that belongs to another delimiter, or that the sample's end leaves open.
    if not widths:
        return 0, 0.0
    header = [name.strip() for name in (form.columns or widths[0])]
    found = 0 if form.columns is not None else sum(column.name in header for column in columns)
    if len(widths[0]) < 2:
        return found, 0.0
    return found, sum(len(fields) == len(header) for fields in widths) / len(widths)


def _check_header(
    path: Path, names: Sequence[str], columns: Sequence[Column], delimiter: str
) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if repeated:
        raise UserError(
            f"{path} has more than one column {', '.join(repeated)}; rename or remove the others"
        )
    if missing := lacking(columns, names):
        raise ConfigError([_missing(path, names, missing, delimiter)])


def _missing(path: Path, names: Sequence[str], missing: Sequence[Column], delimiter: str) -> str:
    shown = ", ".join(name[:40] for name in names[:10]) + ("..." if len(names) > 10 else "")
    example = ",".join(f"column{i}" for i in range(1, len(names) + 1))
    return (
        f"{path} has no column {listed(missing)}; it has {shown}; set {keys(missing)}"
        f"{UNLESS_HEADER}=[{example}], and where fields are separated otherwise than by "
        f"{_separated(delimiter)}, dataset.delimiter"
    )


def _separated(delimiter: str) -> str:
    return DELIMITERS.get(delimiter, repr(delimiter))


def _refuse_header(path: Path, fields: Sequence[str], names: Sequence[str]) -> None:
    if [field.strip() for field in fields] == list(names):
        raise ConfigError(
            [f"{path} has a header, line 1, with the names of dataset.columns; leave that key out"]
        )


def _too_many(
    path: Path, line: int, count: int, expected: int, delimiter: str, form: CsvFormat
) -> str:
    separated = _separated(delimiter)
    source = "the header" if form.columns is None else "dataset.columns"
    return (
        f"cannot read {path} as csv: line {line} has more fields than {source}, {count} instead of "
        f"{expected}; separate fields by {separated}, and put text with {separated} in "
        '"quotes"'
    )


def _unclosed(path: Path, error: UnreadableRow) -> str:
    several = error.last > error.first
    where = f"the row of lines {error.first} to {error.last}" if several else f"line {error.first}"
    return (
        f"cannot read {path} as csv: {where} has a quote that is not closed, or text after a "
        f'closing one ({first_line(error)}); put the whole text in "quotes", and write a quote '
        'in it twice, "", or set dataset.quotes=false where quotes are text like any other'
    )
