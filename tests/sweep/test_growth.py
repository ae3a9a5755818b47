"""A long sweep takes no more of the machine at its end than at its beginning."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest
from sweeping import ran, sweep

JOBS = 70
# Jobs after which the sweeper holds what it needs: libraries, pools.
FIRST = 20
# Jobs that are compared at either end.
COMPARED = 25


@pytest.mark.slow
def test_a_sweep_does_not_grow_with_its_jobs(tmp_path: Path) -> None:
    """Each job is a process that ends, so that only the sweeper, which starts them, could grow."""
    sweep(tmp_path, f"seed=range({JOBS})", "hydra.launcher.n_jobs=2", timeout=550)
    assert len(set(ran(tmp_path))) == JOBS
    held = [json.loads(line) for line in (tmp_path / "sweeper.txt").read_text().splitlines()]
    early, late = held[FIRST : FIRST + COMPARED], held[-COMPARED:]
    assert len(held) == JOBS
    # The median: while a job starts, a thread and the pipes to it are there for a moment.
    for counted in ("threads", "files"):
        assert median(each[counted] for each in late) <= median(each[counted] for each in early)
    memory = [sum(each["memory"] for each in part) / len(part) for part in (early, late)]
    # Less than 50 kB a job: its overrides, its config's hash, and how it ended.
    assert memory[1] - memory[0] < 0.05 * JOBS
