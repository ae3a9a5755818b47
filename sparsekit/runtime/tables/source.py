"""The file that a table is read from; what is wrong with it is a UserError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from sparsekit.data.compression import not_utf8
from sparsekit.errors import UserError, first_line


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise UserError where `path` cannot be read in the block, which reads it and nothing else.

    A file without the right to read it stays an OSError, for which the command line has the fix.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error
    except PermissionError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"cannot read {path}: {first_line(error)}; write or download it again"
        ) from error


def source_lines(path: Path, file: IO[str]) -> Iterator[str]:
    """The lines of an open file. Raises UserError."""
    with reading(path):
        yield from file
