"""Parquet files, Arrow files, and folders that `Dataset.save_to_disk` wrote: columns with types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetDict, Features

from sparsekit.data.compression import open_bytes
from sparsekit.data.noted_features import with_noted_features
from sparsekit.data.schema import Column
from sparsekit.data.table import FileRows
from sparsekit.errors import UserError, first_line

_TEMPLATE = "row {} (from 0)"
# The files by which a folder of `save_to_disk` is recognized: of one split, and of several.
STATE, SPLITS = "state.json", "dataset_dict.json"


def is_arrow_folder(path: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote the folder."""
    return (path / STATE).is_file() or (path / SPLITS).is_file()


def read_parquet(path: Path, columns: Sequence[Column]) -> FileRows:
    """The rows of a parquet file, of which the task reads `columns`."""
    try:
        with open_bytes(path) as stream:
            table = pq.read_table(pa.BufferReader(stream.read()))
    except pa.ArrowException as error:
        raise damaged(path, "parquet", error) from error
    return file_rows(path, table, columns)


def read_arrow(path: Path, columns: Sequence[Column]) -> FileRows:
    """The rows of an Arrow file, in either of Arrow's formats, or of a folder of `datasets`."""
    if path.is_dir():
        return file_rows(path, _folder(path), columns)
    try:
        with open_bytes(path) as stream:
            content = pa.BufferReader(stream.read())
        is_file = bytes(content.read(6)) == b"ARROW1"
        content.seek(0)
        opened = pa.ipc.open_file(content) if is_file else pa.ipc.open_stream(content)
        table = opened.read_all()
    except pa.ArrowException as error:
        raise damaged(path, "Arrow", error) from error
    return file_rows(path, table, columns)


def _folder(path: Path) -> pa.Table:
    try:
        stored = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise damaged(path, "an Arrow folder", error) from error
    if isinstance(stored, DatasetDict):
        raise UserError(
            f"{path} holds the splits {', '.join(stored)}; give one folder for each, such as "
            f"{path / next(iter(stored), 'train')}"
        )
    return stored.with_format("arrow")[:]


def file_rows(
    path: Path,
    table: pa.Table,
    columns: Sequence[Column],
    numbers: npt.NDArray[np.int64] | None = None,
) -> FileRows:
    """The rows of a table, whose `numbers` in the file are those from 0 on by default.

    Columns of repeated texts, and views of texts, become plain ones. Columns of types that
    `datasets` lacks, such as maps, are left out; raises UserError for one of `columns`.
    """
    read = {column.name: column for column in columns}
    table = with_noted_features(path, table, read)
    for field in table.schema:
        index = table.schema.names.index(field.name)
        if pa.types.is_dictionary(field.type):
            plain = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, plain)
        elif pa.types.is_string_view(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.string()))
        elif not _known(field):
            if field.name in read:
                raise UserError(
                    f"{path}, column {field.name!r} holds {field.type}, a type that is not read; "
                    f"save it as text or numbers, or set {read[field.name].key} to another column"
                )
            table = table.remove_column(index)
    if numbers is None:
        numbers = np.arange(table.num_rows)
    return FileRows(table=table, numbers=numbers, template=f"{path}, {_TEMPLATE}")


def _known(field: pa.Field) -> bool:
    """Whether `datasets` has the type of a column."""
    try:
        Features.from_arrow_schema(pa.schema([field]))
    except ValueError:
        return False
    return True


def damaged(path: Path, form: str, error: Exception) -> UserError:
    """The error for a file or folder that does not hold what its form promises."""
    return UserError(
        f"cannot read {path} as {form}: {first_line(error)}; write or download it again"
    )
