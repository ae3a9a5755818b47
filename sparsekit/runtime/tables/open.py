"""Opens a table by its format, and the file that it is written to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from sparsekit.data.compression import bare_suffix, first_bytes, open_text
from sparsekit.errors import UserError
from sparsekit.runtime.tables.base import Table
from sparsekit.runtime.tables.delimited import TAB_SUFFIXES, DelimitedTable
from sparsekit.runtime.tables.json_lines import JsonLinesTable
from sparsekit.runtime.tables.parquet import ParquetTable
from sparsekit.runtime.tables.source import reading, source_lines

# The suffix of a file, without that of a compression, and its format.
FORMATS = {
    ".csv": "csv",
    **dict.fromkeys(TAB_SUFFIXES, "tsv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "JSON lines"),
    ".parquet": "parquet",
}
_CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


def is_table(name: str) -> bool:
    """Whether an argument names a table rather than being a text: one word with such a suffix.

    >>> is_table("reviews.csv.gz"), is_table("I like the format .csv"), is_table("Fine.")
    (True, False, False)
    """
    return bare_suffix(Path(name)) in FORMATS and (not name.split()[1:] or os.path.isfile(name))


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """The table in `path`, which may be compressed. Raises UserError where it cannot be read."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; give a csv, jsonl or parquet file")
    kind = FORMATS[bare_suffix(path)]
    with reading(path):
        empty = not first_bytes(path, 4096).strip()
    if empty:
        raise UserError(f"{path} is empty")
    if kind == "parquet":
        yield ParquetTable(path)
        return
    with open_text(path) as file:
        lines = source_lines(path, file)
        yield JsonLinesTable(path, lines) if kind == "JSON lines" else DelimitedTable(path, lines)


@contextmanager
def open_output(source: Path, table: Table, output: Path | None) -> Iterator[IO[bytes]]:
    """The file to write to, complete once the block ends; stdout for None.

    Until then it is `output` with `.partial` after its name, which is removed where the block
    fails. Raises UserError for an output of another format than `source`, and for a binary one
    without a file.
    """
    if output is None:
        if table.binary:
            raise UserError(f"{source} is a binary file: name one for the answers with --output")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    _check_output(source, output)
    special = output.exists() and not output.is_file()
    written = output if special else output.with_name(output.name + ".partial")
    try:
        with pa.output_stream(str(written), compression=_CODECS.get(output.suffix.lower())) as file:
            yield cast("IO[bytes]", file)
    except BaseException:
        if not special:
            written.unlink(missing_ok=True)
        raise
    if not special:
        os.replace(written, output)


def _check_output(source: Path, output: Path) -> None:
    if output.exists() and output.samefile(source):
        raise UserError(f"--output {output} is the file that is read; name another")
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {output.parent} for --output; make it first")
    read, suffix = FORMATS[bare_suffix(source)], bare_suffix(output)
    if suffix and FORMATS.get(suffix) != read:
        raise UserError(
            f"--output {output} would be {FORMATS.get(suffix, suffix[1:])}, but answers are "
            f"written as {read}, like {source.name}; give it the suffix {bare_suffix(source)}"
        )
