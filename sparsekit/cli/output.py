"""The folder that a command writes its results to."""

from __future__ import annotations

from pathlib import Path

from sparsekit.errors import UserError


def check_folder(folder: Path) -> None:
    """Raise UserError for a file, before anything is measured whose result would be lost."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; choose a folder")
