"""Rows of text collected into Arrow tables, and the tables of a split put together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, DatasetInfo
from datasets.table import InMemoryTable

from sparsekit.data.class_labels import with_one_order
from sparsekit.data.columns import BATCH
from sparsekit.data.origin import add_origin, place
from sparsekit.errors import UserError, first_line

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
Row = Mapping[str, str | Sequence[str | None] | None]


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """The rows of one file.

    Args:
        table: one row each.
        numbers: the line of each row, or its index, [rows].
        template: what names a row by its number, such as "train.csv, line {}".
    """

    table: pa.Table
    numbers: npt.NDArray[np.int64]
    template: str


def text_table(
    rows: Iterable[tuple[int, Row]], template: str, lists: Sequence[str] = ()
) -> FileRows:
    """The numbered rows, each column as text; the columns `lists` as lists of text."""
    read = list(text_tables(rows, template, lists))
    if not read:
        return FileRows(table=pa.table({}), numbers=np.zeros(0, dtype=np.int64), template=template)
    return FileRows(
        table=pa.concat_tables([each.table for each in read], promote_options="default"),
        numbers=np.concatenate([each.numbers for each in read]),
        template=template,
    )


def text_tables(
    rows: Iterable[tuple[int, Row]],
    template: str,
    lists: Sequence[str] = (),
    size: int = BATCH,
) -> Iterator[FileRows]:
    """The same as `text_table`, `size` rows at a time."""
    iterator: Iterator[tuple[int, Row]] = iter(rows)
    while batch := list(islice(iterator, size)):
        names = dict.fromkeys(name for _, row in batch for name in row)
        try:
            columns = {
                name: pa.array([row.get(name) for _, row in batch], _type(name in lists))
                for name in names
            }
            table = pa.table(columns)
        except UnicodeEncodeError as error:
            raise _half_character(batch, template) from error
        numbers = np.array([number for number, _ in batch], dtype=np.int64)
        yield FileRows(table=table, numbers=numbers, template=template)


def _half_character(batch: Sequence[tuple[int, Row]], template: str) -> UserError:
    """The error for the first text that no encoding can write."""
    for number, row in batch:
        for name, value in row.items():
            texts = [name, value] if isinstance(value, str | None) else [name, *value]
            for text in texts:
                if text is not None and (found := _LONE_SURROGATE.search(text)):
                    return UserError(
                        f"{place(template, number)}: column {name!r} holds {found[0]!r}, "
                        "half of a character that is written in two parts, as a text has that was "
                        "cut in between; write the whole character, or leave it out"
                    )
    raise AssertionError("every text can be encoded")


def _type(is_list: bool) -> pa.DataType:
    return pa.list_(pa.string()) if is_list else pa.string()


def _file(rows: FileRows) -> str:
    return rows.template.rpartition(",")[0]


def as_dataset(files: Sequence[FileRows]) -> Dataset:
    """The rows of the files one after the other, each with its origin.

    Classes are numbered as in the first file, by their names. Raises UserError for columns whose
    types differ between files, and for classes that only some files name.
    """
    filled = [each for each in files if each.table.num_rows] or files[:1]
    tables, features = with_one_order(
        [each.table for each in filled], [_file(each) for each in filled]
    )
    try:
        table = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        names = " and ".join(_file(each) for each in filled[:2])
        raise UserError(
            f"{names} hold columns of different types: {first_line(error)}; save them with "
            "the same types"
        ) from error
    # A file that is read in pieces has the same template in each.
    index = {template: i for i, template in enumerate(dict.fromkeys(t.template for t in filled))}
    places = np.repeat(
        [index[each.template] for each in filled], [each.table.num_rows for each in filled]
    )
    numbers = np.concatenate([each.numbers for each in filled])
    info = None if features is None else DatasetInfo(features=features)
    return add_origin(Dataset(InMemoryTable(table), info=info), list(index), places, numbers)
