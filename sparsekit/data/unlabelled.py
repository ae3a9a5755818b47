"""Files of texts whose labels, if they have any, are not read: tables, or one text a line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from datasets import Dataset

from sparsekit.data.compression import bare_suffix, open_text
from sparsekit.data.delimited import DELIMITERS, CsvFormat
from sparsekit.data.readers import members, read_files, readable
from sparsekit.data.schema import Column
from sparsekit.data.table import FileRows, as_dataset, text_table
from sparsekit.errors import ConfigError, UserError

log = logging.getLogger(__name__)

# How many lines show whether a .txt file is a table.
_SAMPLE_LINES = 100


def read_unlabelled(path: Path, columns: Sequence[Column], form: CsvFormat) -> Dataset:
    """The rows of a file, or of all files of a folder, with the texts `columns`.

    A column of lists may hold texts instead. A .txt file that is no table has one text a line.

    form: how csv files are written; they may have a header even so.

    Raises UserError that names file, line and fix.
    """
    files = members(path)
    if len(columns) == 1 and all(_holds_lines(file, columns[0].name, form) for file in files):
        log.info("dataset.unlabeled: %s has one text a line", path)
        return as_dataset([_read_lines(file, columns[0].name) for file in files])
    return _table(path, columns, form)


def has_header(path: Path, name: str, form: CsvFormat) -> bool:
    """Whether the first line of a text file that is not empty has the field `name`."""
    first = next((text for _, text in _lines(path)), "")
    return any(
        name in (field.strip('" ') for field in first.split(each)) for each in _delimiters(form)
    )


def _table(path: Path, columns: Sequence[Column], form: CsvFormat) -> Dataset:
    if not any(column.lists for column in columns):
        return _of_texts(path, columns, form)
    try:
        # As texts first: csv files hold no lists, and the error then says what else is wrong.
        return _of_texts(path, [replace(column, lists=False) for column in columns], form)
    except ConfigError as error:
        try:
            return _of_texts(path, columns, form)
        except UserError:
            raise error from None


def _of_texts(path: Path, columns: Sequence[Column], form: CsvFormat) -> Dataset:
    if form.columns is not None:
        with suppress(ConfigError):  # No header, or one without the columns.
            return read_files(path, columns, form=replace(form, columns=None))
    return read_files(path, columns, form=form)


def _holds_lines(path: Path, name: str, form: CsvFormat) -> bool:
    """Whether the file is a .txt file that is no table and no json: of one text a line."""
    if path.is_dir() or bare_suffix(path) != ".txt" or has_header(path, name, form):
        return False
    lines = [text for _, text in islice(_lines(path), _SAMPLE_LINES)]
    if not lines or lines[0].startswith(("{", "[")):
        return False
    # A table has as many delimiters in every line.
    return not any(
        each in lines[0] and len({line.count(each) for line in lines}) == 1
        for each in _delimiters(form)
    )


def _delimiters(form: CsvFormat) -> set[str]:
    return {*DELIMITERS, *(form.delimiter or "")}


def _read_lines(path: Path, name: str) -> FileRows:
    with readable(path):
        return text_table(((n, {name: text}) for n, text in _lines(path)), f"{path}, line {{}}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The number and the text of each line that is not empty."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if text := line.strip():
                yield number, text
