"""Finding the run folders below a folder. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sparsekit.runs.folder import RunFolder


def find_runs(folder: Path) -> Iterator[RunFolder]:
    """Every run folder at or below `folder`, sorted by name, digits by value."""
    for path, folders, _ in os.walk(folder):
        run = RunFolder(Path(path))
        if run.exists:
            # Below it are models and checkpoints, never another run.
            folders.clear()
            yield run
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".")),
            key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name),
        )
