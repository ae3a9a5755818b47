"""Run folders on disk: finding them and reading how they ended. Imports no torch."""

from __future__ import annotations

import functools
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparsekit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended: `status` completed, failed, broken or unfinished, and why.

    broken: `summary.json` cannot be read; unfinished: there is none.
    """

    status: str
    error: str | None = None
    hash: str | None = None
    summary: dict[str, Any] | None = None


@functools.cache
def new_folder(path: str) -> str:
    """`path`, or `path-2`, `path-3`, ... where others are, made: two runs may start in one second.

    The same for each call of a process. Raises UserError where none can be made.
    """
    for name in itertools.chain([path], (f"{path}-{number}" for number in itertools.count(2))):
        try:
            Path(name).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"cannot make the run folder: {error}; set hydra.run.dir=FOLDER"
            ) from error
        return name
    raise AssertionError("numbers do not end")


def writable_folder(path: str | Path, key: str) -> Path:
    """`path`, made if need be; raises UserError, which names `key`, where nothing can be written.

    A folder that exists and refuses files would end in a traceback of Hydra's, which writes first.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {key}={folder}: {error}; set another folder") from error
    return folder


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder`; raises UserError where one is at work in it."""
    try:
        with FileLock(folder / ".run.lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(
            f"another process runs in {folder}: wait for it, or set hydra.run.dir=FOLDER"
        ) from error


def is_run(folder: Path) -> bool:
    """Whether a run ended here, or began: Hydra leaves `.hydra/` before all else."""
    return (folder / "summary.json").is_file() or (folder / ".hydra").is_dir()


def find_runs(folder: Path) -> Iterator[Path]:
    """Every run folder at or below `folder`, in the order of their names, numbers by value."""
    for path, folders, _ in os.walk(folder):
        if is_run(Path(path)):
            # Below lie models and checkpoints, never another run.
            folders.clear()
            yield Path(path)
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".")),
            key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name),
        )


def ending(run: Path) -> Ending:
    """Read a run folder's `summary.json`; never raises for what is in it."""
    path = run / "summary.json"
    try:
        summary = json.loads(path.read_text())
        if not isinstance(summary, dict) or summary.get("status") not in ("completed", "failed"):
            raise ValueError("it has no status")
    except FileNotFoundError:
        return Ending(status="unfinished", error="no summary.json: it runs, or it was killed")
    except (OSError, ValueError) as error:
        return Ending(status="broken", error=f"summary.json: {error}")
    config = summary.get("config")
    return Ending(
        status=summary["status"],
        error=summary.get("error"),
        hash=config.get("hash") if isinstance(config, dict) else None,
        summary=summary,
    )
