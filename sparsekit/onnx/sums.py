"""SHA-256 sums of a folder's files, in the format of `sha256sum --check`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sparsekit.errors import UserError

NAME = "SHA256SUMS"
_LINE = re.compile(r"(?P<sum>[0-9a-f]{64}) [ *](?P<name>.+)")


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Write `folder/SHA256SUMS` with the sums of `files`, which lie in or below it."""
    lines = [f"{file_sum(file)}  {file.relative_to(folder).as_posix()}" for file in sorted(files)]
    # Renamed, so that a full disk leaves earlier sums whole.
    temporary = folder / f".{NAME}.tmp"
    try:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary.replace(folder / NAME)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def replace_summed(folder: Path, name: str, text: str) -> None:
    """Replace the text of one file of `folder`, and its sum; the other sums stay as they are."""
    content = text.encode()
    sums = {**read_sums(folder), name: hashlib.sha256(content).hexdigest()}
    lines = [f"{sum_}  {each}\n" for each, sum_ in sorted(sums.items())]
    new = {name: content, NAME: "".join(lines).encode()}
    temporary = {each: folder / f".{each}.tmp" for each in new}
    try:
        for each, file in temporary.items():
            file.write_bytes(new[each])
        for each, file in temporary.items():
            file.replace(folder / each)
    except OSError:
        for file in temporary.values():
            file.unlink(missing_ok=True)
        raise


def check_sums(folder: Path) -> int:
    """Compare files with `folder/SHA256SUMS`; returns the number of files, all unchanged.

    Raises UserError naming every file that is missing or was changed.
    """
    listed = folder / NAME
    if not listed.is_file():
        raise UserError(
            f"there is no {listed}: {folder} was exported without sums, or is not a run; export "
            "it again: sparsekit export RUN"
        )
    problems = []
    sums = read_sums(folder)
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file_sum(file) != expected:
            problems.append(f"{name} ({file.stat().st_size} bytes) was changed or cut short")
    if problems or not sums:
        raise UserError(
            f"{folder} is not what was exported: {', '.join(problems) or f'{NAME} is empty'}; get "
            "the files again, or train or export again"
        )
    return len(sums)


def read_sums(folder: Path) -> dict[str, str]:
    """The sums in `folder/SHA256SUMS` by file name.

    Raises UserError for a line that is not a sum, or that names a file outside of the folder.
    """
    listed, sums = folder / NAME, {}
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        name = PurePosixPath(match["name"] if match else "..")
        if match is None or name.is_absolute() or ".." in name.parts:
            raise UserError(
                f"line {number} of {listed} is not the sum of a file in this folder: {line[:80]!r}"
                "; get the folder again, or export again: sparsekit export RUN"
            )
        sums[match["name"]] = match["sum"]
    return sums


def check_listed(folder: Path, files: Iterable[Path]) -> None:
    """Raise UserError naming each of `files`, in or below `folder`, that has no sum."""
    names = {file.relative_to(folder).as_posix() for file in files} - {NAME}
    if added := sorted(names - read_sums(folder).keys()):
        raise UserError(
            f"{folder} is not what was exported: {', '.join(added)} was added; remove it, or "
            "export again: sparsekit export RUN"
        )


def file_sum(file: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
