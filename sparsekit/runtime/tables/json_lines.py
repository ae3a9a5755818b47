"""JSON lines: one object a line, written again as it was read, with the answer's keys after it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from sparsekit.errors import UserError, first_line, parse_json
from sparsekit.runtime.tables.base import NewValues, Part


@dataclass(frozen=True)
class JsonPart:
    """Lines, the object in each, and their numbers."""

    path: Path
    numbers: Sequence[int]
    lines: Sequence[str]
    objects: Sequence[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.lines)

    def values(self, column: str) -> list[Any]:
        for number, each in zip(self.numbers, self.objects, strict=True):
            if column not in each:
                raise UserError(
                    f"{self.path}, line {number}, has no {column!r}; its keys are "
                    f"{', '.join(each) or 'none'}; add it, as null where there is no text"
                )
        return [each[column] for each in self.objects]

    def where(self, row: int) -> str:
        return f"line {self.numbers[row]}"


class JsonLinesTable:
    """A file of one JSON object a line."""

    binary = False

    def __init__(self, path: Path, lines: Iterator[str]) -> None:
        self._path, self._lines = path, lines
        rows = self._rows()
        first = next(rows, None)
        if first is None:
            raise UserError(f"{path} has no rows")
        self.columns: list[str] = list(first[2])
        self._all = chain([first], rows)

    def parts(self, rows: int) -> Iterator[Part]:
        while part := list(islice(self._all, rows)):
            numbers, lines, objects = zip(*part, strict=True)
            yield JsonPart(self._path, numbers, lines, objects)

    @contextmanager
    def writer(self, file: IO[bytes], example: Mapping[str, Any]) -> Iterator[JsonLinesWriter]:
        yield JsonLinesWriter(self._path, file, list(example))

    def _rows(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        for number, line in enumerate(self._lines, start=1):
            text = line.strip()
            if not text:
                continue
            if number == 1 and text.startswith("["):
                raise UserError(
                    f"{self._path} is a list, which is not read in parts; write one object a line: "
                    f"jq -c '.[]' {self._path} > rows.jsonl"
                )
            try:
                value = parse_json(text)
            except ValueError as error:
                raise UserError(
                    f"cannot read {self._path} as json: line {number}: {first_line(error)}; write "
                    "one object a line"
                ) from error
            if not isinstance(value, dict):
                raise UserError(
                    f"cannot read {self._path} as json: line {number} is not an object; write one "
                    "object a line"
                )
            yield number, text, value


@dataclass(frozen=True)
class JsonLinesWriter:
    """Writes each line with its numbers and escapes as they were."""

    path: Path
    file: IO[bytes]
    names: Sequence[str]

    def write(self, part: Part, answers: Sequence[NewValues]) -> None:
        assert isinstance(part, JsonPart)
        nothing = dict.fromkeys(self.names)
        for row, (line, each, answer) in enumerate(
            zip(part.lines, part.objects, answers, strict=True)
        ):
            if known := [name for name in self.names if name in each]:
                raise UserError(
                    f"{self.path}, {part.where(row)}, has a key {known[0]} already; choose "
                    "another --prefix"
                )
            new = json.dumps(nothing if answer is None else dict(answer), ensure_ascii=False)
            start = line[:-1].rstrip()
            comma = ", " if each else ""
            self.file.write(f"{start}{comma}{new[1:]}\n".encode("utf-8", "surrogatepass"))
