"""The kind of a data file, recognized by its first bytes, then by its name."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Literal

from sparsekit.data.compression import bare_suffix, first_bytes
from sparsekit.errors import UserError

Kind = Literal["csv", "json", "parquet", "arrow"]

_SUFFIXES: dict[str, Kind] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
}
# What tables in binary form begin with; the last is Arrow's stream format.
_BINARY: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_SAVE_AS_CSV = "save the table as csv"
_UNPACK = "unpack it, and give the file inside"
# Files that are often given by mistake: the first bytes, the name, and the fix.
_OTHERS: dict[bytes, tuple[str, str]] = {
    b"\xd0\xcf\x11\xe0": ("an Excel workbook (xls)", _SAVE_AS_CSV),
    b"%PDF-": ("a PDF document", "export its text as csv"),
    b"SQLite format 3\x00": ("a SQLite database", "export the table as csv"),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!\x1a": ("a RAR archive", _UNPACK),
    b"\xfd7zXZ": ("an xz file", "decompress it, or compress it with gzip or zstd"),
    b"Obj\x01": ("an Avro file", "save it as parquet"),
    b"\x89HDF": ("an HDF5 file", "save it as parquet"),
    b"\x93NUMPY": ("a NumPy array", "save texts and labels as csv"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
    b"version https://git-lfs": ("a Git LFS pointer, not the data", "run git lfs pull"),
}
# Letters alone, which a text may begin with too.
_ORC = b"ORC"
# In any case, and after blanks.
_MARKUP: dict[bytes, tuple[str, str]] = {
    b"<!doctype html": ("a web page", "download the data itself"),
    b"<html": ("a web page", "download the data itself"),
    b"<?xml": ("an XML file", "save the rows as csv or json"),
}
# Control characters that no text has.
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))
_SAMPLE = 4096


def kind_of(path: Path, wanted: Kind | None = None) -> Kind:
    """The kind of the file or Arrow folder; raises UserError for one that cannot be read.

    Args:
        path: a file, or a folder that `Dataset.save_to_disk` wrote.
        wanted: the kind that the user named; a file of another kind raises UserError.
    """
    if path.is_dir():
        return _checked(path, "arrow", wanted)
    start = first_bytes(path, _SAMPLE)
    _refuse_others(path, start)
    for magic, kind in _BINARY.items():
        if start.startswith(magic) and not _is_text(start):
            return _checked(path, kind, wanted)
    if wanted in ("parquet", "arrow"):
        raise UserError(
            f"{path} is not {_named(wanted)}: it begins with {start[:20]!r}; leave out "
            "dataset.format to detect the kind"
        )
    if wanted == "csv" and _is_json(start):
        raise UserError(f"{path} is a json file, not csv; set dataset=json")
    if wanted is not None:
        return wanted
    return _SUFFIXES.get(bare_suffix(path)) or ("json" if _is_json(start) else "csv")


def _checked(path: Path, kind: Kind, wanted: Kind | None) -> Kind:
    if wanted in (None, kind):
        return kind
    what = "an Arrow folder" if path.is_dir() else _named(kind)
    raise UserError(f"{path} is {what}, not {wanted}; set dataset=files, which reads every kind")


def _refuse_others(path: Path, start: bytes) -> None:
    if start.startswith(b"PK\x03\x04"):
        _refuse_zip(path)
    markup = start.lstrip().lower()
    for known, content in ((_OTHERS, start), (_MARKUP, markup)):
        for magic, (name, fix) in known.items():
            if content.startswith(magic):
                raise UserError(f"{path} is {name}; {fix}")
    if start.startswith(_ORC) and not _is_text(start):
        raise UserError(f"{path} is an ORC file; save it as parquet")
    # Where a tar archive has its signature.
    if start[257:262] == b"ustar" and not _is_text(start):
        raise UserError(f"{path} is a tar archive; {_UNPACK}")
    # Protocols 2 to 5 of pickle, which ends with a dot; nothing of it is loaded.
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and len(start) > 1:
        raise UserError(f"{path} is a Python pickle, which may run code; save the rows as parquet")


def _refuse_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    if any(name.startswith("xl/") for name in names):
        raise UserError(f"{path} is an Excel workbook (xlsx); {_SAVE_AS_CSV}")
    inside = f" with {', '.join(names[:3])}" if names else ""
    raise UserError(f"{path} is a zip archive{inside}; {_UNPACK}")


def _is_text(start: bytes) -> bool:
    """Whether the first bytes of a file could be those of a text."""
    return len(start.translate(None, _CONTROLS)) == len(start)


def _is_json(start: bytes) -> bool:
    """Whether the file begins with a list or with an object, as a line or over several."""
    text = start.decode("utf-8-sig", errors="replace").lstrip()
    line = text.partition("\n")[0].strip()
    if not line.startswith(("{", "[")):
        return False
    if line in ("{", "[", "[{"):
        return True
    try:
        _, end = json.JSONDecoder().raw_decode(line)
    except ValueError:
        # A line that the sample cuts off.
        return len(start) == _SAMPLE and "\n" not in text and line.startswith(('{"', '[{"'))
    # More than a comma behind it makes it a text, such as "[1] first,a".
    return line[end:].strip() in ("", ",")


def _named(kind: Kind) -> str:
    return {
        "csv": "a csv file",
        "json": "a json file",
        "parquet": "a parquet file",
        "arrow": "an Arrow file",
    }[kind]
