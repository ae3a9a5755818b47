"""The folder that a command writes its results to."""

from __future__ import annotations

from pathlib import Path

from sparsekit.errors import UserError


def check_folder(folder: Path) -> None:
    """Raise UserError for a file, before anything is measured whose result would be lost."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            what = "is a file" if path == folder else f"lies in {path}, which is a file"
            raise UserError(f"--output {folder} {what}; choose a folder")
