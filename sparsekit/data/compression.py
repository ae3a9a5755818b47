"""Files that may be compressed: opened by what they contain, not by their names."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from sparsekit.errors import UserError

# The bytes that a compressed file begins with, and pyarrow's name of its codec.
_CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
SUFFIXES = (".gz", ".zst", ".bz2")


@contextmanager
def open_bytes(path: Path) -> Iterator[pa.NativeFile]:
    """The file's content, decompressed. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        start = file.read(4)
    codec = next((name for magic, name in _CODECS.items() if start.startswith(magic)), None)
    # Not pa.input_stream(path): it takes the codec from the file's name.
    with pa.input_stream(pa.OSFile(str(path)), compression=codec) as stream:
        yield stream


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """The file's content as UTF-8 text with its line ends; a byte order mark is left out."""
    with open_bytes(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        yield text


def not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    """The error for a file whose text cannot be decoded; names the line."""
    with open_bytes(path) as stream, io.BufferedReader(stream) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as found:
                byte = f"the byte {line[found.start]:#04x} is not UTF-8"
                return UserError(f"{path}, line {number}: {byte}; save it as UTF-8")
    return UserError(f"cannot read {path}: {error}; save it as UTF-8")


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of the content. Raises OSError where it cannot be read."""
    with open_bytes(path) as stream:
        return bytes(stream.read(count))


def bare_suffix(path: Path) -> str:
    """The suffix without that of a compression, in lower case.

    >>> bare_suffix(Path("Rows.CSV.gz")), bare_suffix(Path("rows.gz"))
    ('.csv', '')
    """
    name = path.name.lower()
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return Path(name).suffix
