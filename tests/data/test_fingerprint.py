"""The hash of a data set's files changes with every byte and name, and with nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from sparsekit.data.fingerprint import files_hash


def test_it_follows_the_bytes(tmp_path: Path) -> None:
    train, folder = tmp_path / "train.csv", tmp_path / "validation"
    folder.mkdir()
    train.write_text("text,label\na,0\n")
    (folder / "a.parquet").write_text("rows")
    files = {"train": str(train), "validation": str(folder), "test": None}
    known = files_hash(files)
    os.utime(train, (0, 0))
    assert files_hash(files) == known
    moved = tmp_path / "moved.csv"
    train.rename(moved)
    assert files_hash({**files, "train": str(moved)}) == known
    assert files_hash(files) != known  # the file is missing; reading it names it
    moved.rename(train)
    stamp = os.stat(train)
    train.write_text("text,label\nb,0\n")
    os.utime(train, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert files_hash(files) != known
    train.write_text("text,label\na,0\n")
    assert files_hash(files) == known
    (folder / "a.parquet").rename(folder / "b.parquet")
    assert files_hash(files) != known
