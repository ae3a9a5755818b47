"""Files read block by block, for training on more rows than memory or disk hold twice.

What a row is, and how it is checked, is as in `readers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from sparsekit.data.columnar import damaged, file_rows
from sparsekit.data.columns import BATCH
from sparsekit.data.compression import first_bytes, open_text
from sparsekit.data.delimited import CsvFormat, csv_rows
from sparsekit.data.file_kinds import Kind, kind_of
from sparsekit.data.json_files import json_lines
from sparsekit.data.readers import members, readable, refuse_lists
from sparsekit.data.schema import Column, lacking
from sparsekit.data.table import FileRows, as_dataset, text_tables
from sparsekit.errors import UserError


def file_blocks(
    path: Path,
    columns: Sequence[Column],
    size: int,
    kind: Kind | None = None,
    form: CsvFormat | None = None,
) -> Iterator[Dataset]:
    """The rows of a file or folder in order, `size` or a few more at a time, with their origin.

    Only one block is in memory. The other arguments are those of `readers.read_files`. Raises
    UserError as it does, and for files that can only be read as a whole.
    """
    found: list[FileRows] = []
    for file in members(path):
        for piece in _pieces(file, columns, min(size, BATCH), kind, form or CsvFormat()):
            found.append(piece)
            if sum(each.table.num_rows for each in found) >= size:
                yield as_dataset(found)
                found = []
    if any(each.table.num_rows for each in found):
        yield as_dataset(found)


def _pieces(
    path: Path, columns: Sequence[Column], size: int, kind: Kind | None, form: CsvFormat
) -> Iterator[FileRows]:
    """At most `size` rows at a time."""
    with readable(path):
        found = kind_of(path, kind)
        if found == "parquet":
            yield from _numbered(path, "parquet", _parquet(path, columns, size), columns)
        elif found == "arrow":
            yield from _numbered(path, "Arrow", _arrow(path, size), columns)
        elif found == "json":
            yield from json_lines(path, columns, size)
        else:
            refuse_lists(path, columns)
            with open_text(path) as file:
                rows = csv_rows(path, file, form, columns)
                yield from text_tables(rows, f"{path}, line {{}}", size=size)


def _parquet(path: Path, columns: Sequence[Column], size: int) -> Iterator[pa.Table]:
    with path.open("rb") as stream:
        if stream.read(4) != b"PAR1":
            raise UserError(
                f"dataset.streaming=true cannot read {path}, a compressed parquet file, without "
                "unpacking it; decompress it: parquet compresses its own columns"
            )
    with pq.ParquetFile(path) as file:
        # All of them where one is missing: the error lists them.
        missing = lacking(columns, file.schema_arrow.names)
        wanted = None if missing else [column.name for column in columns]
        for batch in file.iter_batches(size, columns=wanted):
            yield pa.Table.from_batches([batch])


def _arrow(path: Path, size: int) -> Iterator[pa.Table]:
    if path.is_dir():
        stored = datasets.load_from_disk(str(path))
        if isinstance(stored, DatasetDict):
            raise UserError(
                f"{path} holds the splits {', '.join(stored)}; give one folder for each, such as "
                f"{path / next(iter(stored), 'train')}"
            )
        yield from stored.with_format("arrow").iter(size)
        return
    start = first_bytes(path, 6)
    with path.open("rb") as stream:
        if stream.read(6) != start:
            raise UserError(
                f"dataset.streaming=true cannot read {path}, a compressed Arrow file, without "
                "unpacking it; decompress it, or save it as parquet"
            )
    with pa.memory_map(str(path)) as mapped:
        if start == b"ARROW1":
            opened = pa.ipc.open_file(mapped)
            batches = map(opened.get_batch, range(opened.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(mapped))
        for batch in batches:
            for first in range(0, batch.num_rows, size):
                yield pa.Table.from_batches([batch.slice(first, size)])


def _numbered(
    path: Path, form: str, tables: Iterator[pa.Table], columns: Sequence[Column]
) -> Iterator[FileRows]:
    """The tables of a file, their rows numbered through."""
    first = 0
    while True:
        try:
            table = next(tables, None)
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise damaged(path, form, error) from error
        if table is None:
            return
        yield file_rows(path, table, columns, np.arange(first, first + table.num_rows))
        first += table.num_rows
