"""Local data files of every kind, each value of a text file read as text.

No type is guessed: a label `01` stays `01`, and what a column holds is decided over all splits, in
`labels`. A path is the file it names, never a pattern, and nothing is kept between runs, so that a
file that was rewritten is read again whatever its modification time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset

from sparsekit.data.columnar import is_arrow_folder, read_arrow, read_parquet
from sparsekit.data.compression import first_bytes, not_utf8, open_text
from sparsekit.data.delimited import CsvFormat, csv_rows
from sparsekit.data.file_kinds import Kind, kind_of
from sparsekit.data.json_files import read_json
from sparsekit.data.schema import Column
from sparsekit.data.table import FileRows, as_dataset, text_table
from sparsekit.errors import UserError


def read_files(
    path: Path,
    columns: Sequence[Column],
    kind: Kind | None = None,
    form: CsvFormat | None = None,
) -> Dataset:
    """The rows of a file, of an Arrow folder, or of all files of a folder, with their origin.

    An empty field of a csv file is None; "NA" or "null" is text. In a json file numbers and
    booleans become text, `1` and `1.0` both "1". Columns of parquet and Arrow files keep their
    types.

    Args:
        path: compressed with gzip, zstd or bzip2, or not.
        columns: those that the task reads; others may be there too. Of csv files none may be one
            of lists.
        kind: None detects it from the content and the name of the file.
        form: how a csv file is written.

    Raises UserError that names file, line and fix.
    """
    form = form or CsvFormat()
    files = members(path)
    read = [_read(file, columns, kind, form) for file in files]
    if not any(each.table.num_rows for each in read):
        raise UserError(f"{path} has no rows")
    return as_dataset(read)


def members(path: Path) -> list[Path]:
    """The file itself, or the files of a folder in the order of their names.

    Hidden files are left out; a folder of `Dataset.save_to_disk` counts as one file. Raises
    UserError for a folder without files.
    """
    if not path.is_dir() or is_arrow_folder(path):
        return [path]
    files = sorted(each for each in path.iterdir() if not each.name.startswith((".", "_")))
    if not files:
        raise UserError(f"the folder {path} has no files")
    folders = [each.name for each in files if each.is_dir() and not is_arrow_folder(each)]
    if folders:
        raise UserError(
            f"{path} holds the folders {', '.join(folders[:3])}; give the folder or file of each "
            f"split, such as dataset.data_files.train={path / folders[0]}"
        )
    return files


def _read(path: Path, columns: Sequence[Column], kind: Kind | None, form: CsvFormat) -> FileRows:
    with readable(path):
        found = kind_of(path, kind)
        if found == "parquet":
            return read_parquet(path, columns)
        if found == "arrow":
            return read_arrow(path, columns)
        if found == "json":
            return read_json(path, columns)
        refuse_lists(path, columns)
        with open_text(path) as file:
            return text_table(csv_rows(path, file, form, columns), f"{path}, line {{}}")


def refuse_lists(path: Path, columns: Sequence[Column]) -> None:
    """Raise UserError where a csv file would have to hold lists."""
    if lists := [column.name for column in columns if column.lists]:
        raise UserError(
            f"{path} is a csv file, which holds no lists for {' and '.join(lists)}; write json "
            "with a list in each row; words and tags may be in a CoNLL file (dataset=conll), "
            "and labels in one text, such as 'joy,love' (dataset.label_separator=,)"
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise UserError for an empty file, and for one that cannot be read within the block."""
    try:
        if path.is_file() and not first_bytes(path, 4096).strip():
            raise UserError(f"{path} is empty")
        yield
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error}; the file must be readable and whole"
        ) from error
