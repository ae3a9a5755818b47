"""CoNLL files: a word a line with its tag, and a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict

from sparsekit.data.compression import bare_suffix, open_text
from sparsekit.data.datasets import Source
from sparsekit.data.delimited import CsvFormat
from sparsekit.data.file_kinds import kind_of
from sparsekit.data.fingerprint import files_hash
from sparsekit.data.readers import members, readable
from sparsekit.data.schema import Column
from sparsekit.data.table import FileRows, as_dataset, text_table
from sparsekit.data.unlabelled import has_header
from sparsekit.errors import ConfigError, UserError
from sparsekit.system import expanded

# Begins a line between documents.
_DOCUMENT = "-DOCSTART-"
_COMMENT = "# "


@dataclass(kw_only=True)
class ConllDataset(Source):
    """Local CoNLL files, for each split a file or a folder of files; gz and zst too.

    Columns are separated by tabs, in lines without one by blanks, and are as many in every line of
    a file. Lines that begin with -DOCSTART- are left out, and comments before the first word of a
    sentence: "# " and text, unless it reads as the word #, with the columns and a tag of another
    line.

    Args:
        data_files: the path for each split.
        word: the position of the word in a line, from 0.
        tag: that of its tag; -1 is the last.
    """

    data_files: dict[str, str | None]
    word: int = 0
    tag: int = -1

    def files_hash(self) -> str | None:
        return files_hash(self.data_files)

    def raw(self, columns: Sequence[Column]) -> DatasetDict:
        if len(columns) != 2 or not all(column.lists for column in columns):
            raise ConfigError(
                [
                    "CoNLL files hold words and tags; set task=token_classification, or give "
                    "another kind of file"
                ]
            )
        names = [column.name for column in columns]
        problems, read = [], {}
        for split, name in self.data_files.items():
            path = expanded(name) if name else None
            if path is not None and not path.exists():
                problems.append(f"dataset.data_files.{split}: there is no file {path}")
            elif path is not None:
                read[split] = as_dataset([self._read(file, names) for file in members(path)])
        if problems:
            raise ConfigError(problems)
        return DatasetDict(read)

    def unlabelled(self, path: Path, columns: Sequence[Column]) -> Dataset:
        """Of CoNLL files, whose tags are not read and may be missing, or of other files."""
        [words] = columns
        files = members(path)
        if not all(_is_conll(file, words.name) for file in files):
            return super().unlabelled(path, columns)
        return as_dataset([self._read(file, [words.name]) for file in files])

    def _read(self, path: Path, names: Sequence[str]) -> FileRows:
        with readable(path):
            found = self._rows(path, tagged=len(names) > 1)
            rows = ((line, dict(zip(names, row, strict=True))) for line, row in found)
            return text_table(rows, f"{path}, line {{}}", names)

    def _rows(self, path: Path, *, tagged: bool) -> Iterator[tuple[int, list[list[str]]]]:
        """The first line of each sentence, with its words and, if it is `tagged`, its tags."""
        words: list[str] = []
        tags: list[str] = []
        first, known = 1, self._known(path)
        columns = None
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                fields = _fields(line)
                if not fields or fields[0].startswith(_DOCUMENT):
                    if words:
                        yield first, [words, tags] if tagged else [words]
                    words, tags = [], []
                elif words or not line.startswith(_COMMENT) or self._form(fields) in known:
                    first = first if words else number
                    words.append(self._field(path, number, fields, self.word, "word", tagged))
                    if tagged:
                        tags.append(self._field(path, number, fields, self.tag, "tag", tagged))
                    columns = columns or (len(fields), number)
                    _check_count(path, number, fields, *columns)
        if words:
            yield first, [words, tags] if tagged else [words]

    def _known(self, path: Path) -> set[tuple[int, str]]:
        """The forms of all lines that can be no comments."""
        with open_text(path) as file:
            lines = (_fields(line) for line in file if not line.startswith(_COMMENT))
            return {self._form(f) for f in lines if f and not f[0].startswith(_DOCUMENT)}

    def _form(self, fields: list[str]) -> tuple[int, str]:
        """The number of columns, and the tag; an empty one where there is no such column."""
        has_tag = -len(fields) <= self.tag < len(fields)
        return len(fields), fields[self.tag] if has_tag else ""

    def _field(
        self, path: Path, number: int, fields: list[str], index: int, name: str, tagged: bool
    ) -> str:
        if len(fields) < 1 + tagged or not -len(fields) <= index < len(fields):
            wanted = "a word and its tag, blanks apart" if tagged else "a word a line"
            raise UserError(
                f"{path}, line {number}: {' '.join(fields)[:60]!r} has {len(fields)} columns, and "
                f"no {name} in column {index} (from 0); write {wanted}, or set dataset.{name}"
            )
        return fields[index]


def _is_conll(path: Path, words: str) -> bool:
    """Whether the file is neither csv nor json nor binary, and no table with the column `words`."""
    is_text = kind_of(path) == "csv" and bare_suffix(path) != ".csv"
    return is_text and not has_header(path, words, CsvFormat())


def _fields(line: str) -> list[str]:
    """The columns of a line; none of an empty one.

    Only tabs and the plain blank separate: a no-break space is part of a word, as in "10 000".
    """
    text = line.strip(" \t\r\n")
    if not text.strip():
        return []
    return re.split(r" *\t[ \t]*" if "\t" in text else " +", text)


def _check_count(path: Path, number: int, fields: list[str], count: int, first: int) -> None:
    """Raise UserError for a line with another number of columns than line `first` has."""
    if len(fields) != count:
        raise UserError(
            f"{path}, line {number}: {' '.join(fields)[:60]!r} has {len(fields)} columns, and line "
            f"{first} has {count}; write as many in every line, with tabs between them where a "
            "word holds a blank"
        )
