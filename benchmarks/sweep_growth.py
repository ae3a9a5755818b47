"""What the process of a sweep holds after 20 jobs and at its end: memory, threads, open files.

    python benchmarks/sweep_growth.py                   # 200 jobs
    python benchmarks/sweep_growth.py --jobs 30

Each job is a process of its own that ends, so only the sweeper, which starts them, could grow. The
jobs do no work. Prints one line: {"jobs", "first": {"memory_mb", "threads", "files"}, "last":
{...}}, means over 10 jobs of the memory and the most of the others. The exit code is 1 where there
are more threads or files at the end, or more than 50 kB of memory for each job in between.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Jobs after which the sweeper holds what it needs, such as libraries and pools.
FIRST = 20
COMPARED = 10
MB_PER_JOB = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether a sweep grows with its jobs.")
    parser.add_argument("--jobs", type=int, default=200)
    jobs = parser.parse_args().jobs
    if jobs < FIRST + COMPARED:
        sys.exit(f"--jobs is {jobs}, it must be at least {FIRST + COMPARED}")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
    from sweeping import ran, sweep

    with tempfile.TemporaryDirectory(prefix="sparsekit-sweep-") as name:
        folder = Path(name)
        sweep(folder, f"seed=range({jobs})", "hydra.launcher.n_jobs=2", timeout=30 * jobs)
        if len(set(ran(folder))) != jobs:
            sys.exit("not all jobs ran")
        lines = (folder / "sweeper.txt").read_text(encoding="utf-8").splitlines()
    held = [json.loads(line) for line in lines]
    first, last = summed(held[FIRST - COMPARED : FIRST]), summed(held[-COMPARED:])
    print(json.dumps({"jobs": jobs, "first": first, "last": last}))
    grown = last["memory_mb"] - first["memory_mb"] > MB_PER_JOB * (jobs - FIRST)
    sys.exit(grown or any(last[what] > first[what] for what in ("threads", "files")))


def summed(held: list[dict[str, Any]]) -> dict[str, float]:
    """The mean memory and the most threads and files of some jobs."""
    return {
        "memory_mb": round(sum(each["memory"] for each in held) / len(held), 1),
        "threads": max(each["threads"] for each in held),
        "files": max(each["files"] for each in held),
    }


if __name__ == "__main__":
    main()
