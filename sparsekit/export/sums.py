"""SHA-256 sums of a folder's files, in the format of `sha256sum --check`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sparsekit.config import UserError

NAME = "SHA256SUMS"


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Write `folder/SHA256SUMS` over `files`, which lie in or below it."""
    lines = [f"{_sum(file)}  {file.relative_to(folder).as_posix()}" for file in sorted(files)]
    (folder / NAME).write_text("\n".join(lines) + "\n")


def check_sums(folder: Path) -> int:
    """Compare with `folder/SHA256SUMS`; returns how many files are as they were.

    Raises UserError naming every file that is missing or not what it was.
    """
    listed = folder / NAME
    if not listed.is_file():
        raise UserError(
            f"there is no {listed}: {folder} was exported without sums, or is no run; export it "
            "again: sparsekit export RUN"
        )
    problems = []
    lines = listed.read_text().splitlines()
    for line in lines:
        expected, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif _sum(file) != expected:
            problems.append(f"{name} ({file.stat().st_size} bytes) was changed or cut short")
    if problems or not lines:
        raise UserError(
            f"{folder} is not what was exported: {', '.join(problems) or f'{NAME} is empty'}; get "
            "the files again, or train or export again"
        )
    return len(lines)


def _sum(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
