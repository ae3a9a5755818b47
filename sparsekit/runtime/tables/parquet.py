"""Parquet files: columns with types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparsekit.errors import UserError, first_line
from sparsekit.runtime.tables.base import NewValues, Part, cell

# Rows that are kept before they are written: a group for each part would be slow to read.
GROUP = 16384


@dataclass(frozen=True)
class ParquetPart:
    """Rows as Arrow has them, and the number of the first."""

    path: Path
    first: int
    batch: pa.RecordBatch

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def values(self, column: str) -> list[Any]:
        try:
            found: list[Any] = self.batch.column(column).to_pylist()
        except (ValueError, pa.ArrowException) as error:
            raise UserError(
                f"cannot read {self.path}, column {column}, from {self.where(0)} on: "
                f"{first_line(error)}; write the column again as text in UTF-8"
            ) from error
        return found

    def where(self, row: int) -> str:
        return f"row {self.first + row} (from 0)"


class ParquetTable:
    """A parquet file."""

    binary = True

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        self._schema: pa.Schema = self._file.schema_arrow
        self.columns: list[str] = self._schema.names
        if not self._file.metadata.num_rows:
            raise UserError(f"{path} has no rows")

    def parts(self, rows: int) -> Iterator[Part]:
        first = 0
        batches = self._file.iter_batches(batch_size=rows)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(error) from error
            if batch is None:
                return
            yield ParquetPart(self._path, first, batch)
            first += batch.num_rows

    @contextmanager
    def writer(self, file: IO[bytes], example: Mapping[str, Any]) -> Iterator[ParquetWriter]:
        new = [pa.field(name, _type(value)) for name, value in example.items()]
        schema = pa.schema([*self._schema, *new], metadata=self._schema.metadata)
        with pq.ParquetWriter(file, schema) as output:
            writer = ParquetWriter(output, schema, list(example))
            yield writer
            writer.flush()

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"cannot read {self._path} as parquet: {first_line(error)}; write or download it again"
        )


@dataclass
class ParquetWriter:
    """Appends answers as typed columns: lists of numbers stay lists, other objects are JSON."""

    output: Any
    schema: pa.Schema
    names: Sequence[str]
    _waiting: list[pa.RecordBatch] = field(default_factory=list)

    def write(self, part: Part, answers: Sequence[NewValues]) -> None:
        assert isinstance(part, ParquetPart)
        new = [
            pa.array([self._value(each, name) for each in answers], self.schema.field(name).type)
            for name in self.names
        ]
        columns = [*part.batch.columns, *new]
        self._waiting.append(pa.RecordBatch.from_arrays(columns, schema=self.schema))
        if sum(batch.num_rows for batch in self._waiting) >= GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as one group."""
        if self._waiting:
            self.output.write_table(pa.Table.from_batches(self._waiting, self.schema))
        self._waiting.clear()

    def _value(self, answer: NewValues, name: str) -> Any:
        if answer is None:
            return None
        value = answer[name]
        return value if pa.types.is_list(self.schema.field(name).type) else cell(value)


def _type(value: Any) -> pa.DataType:
    """The column type of an answer's value.

    >>> _type([0.5]), _type({"no": 0.5}), _type(3)
    (ListType(list<item: float>), DataType(string), DataType(int64))
    """
    if isinstance(value, list) and value and all(isinstance(each, float) for each in value):
        return pa.list_(pa.float32())
    kinds = {float: pa.float64(), int: pa.int64()}
    return kinds.get(type(value), pa.string())
