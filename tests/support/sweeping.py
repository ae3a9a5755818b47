"""Sweeps of `sweep_app.py`, and what became of their jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from project import SUPPORT

from sparsekit.runs.find import find_runs

APP = SUPPORT / "sweep_app.py"


def sweep(
    folder: Path,
    *arguments: str,
    code: int = 0,
    temporary: Path | None = None,
    timeout: float = 200,
) -> subprocess.CompletedProcess[str]:
    own = {"TMPDIR": str(temporary)} if temporary else {}
    done = subprocess.run(
        [sys.executable, str(APP), "-m", "dataset=quickstart", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"} | own,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def ran(folder: Path) -> list[str]:
    """The seed of each job that came to its end, since the last question."""
    path = folder / "ran.txt"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    path.unlink(missing_ok=True)
    return [line.split()[0] for line in lines]


def poison(folder: Path, **seeds: str) -> None:
    (folder / "poison.json").write_text(
        json.dumps({k.removeprefix("s"): v for k, v in seeds.items()})
    )


def statuses(folder: Path) -> dict[str, str]:
    return {run.name: run.ending.status for run in find_runs(folder / "multirun")}
