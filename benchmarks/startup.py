"""The time until `--cfg job` prints the config, and until a run's first training step.

    python benchmarks/startup.py                        # the quickstart; needs no network
    python benchmarks/startup.py --json dataset=csv ... # any overrides for launch.py

The first step ends when `metrics.jsonl` has its loss. The cache is warm: a previous run has
tokenized the data and run the teacher; its time is printed as the cold one. CPU time is printed
beside wall time, since other load on the machine changes only the latter.

Not measured: downloads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
FIRST_STEP = [
    "training.logging_strategy=steps",
    "training.logging_steps=1",
    "training.max_steps=2",
    "training.save_strategy=no",
    "training.eval_strategy=no",
    "tracking=none",
    "export=none",
    "runtime=none",
]


def launch(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start launch.py in `folder`; what it writes to stderr is kept in the file `stderr` there."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        cwd=folder,
        env={**os.environ, "SPARSEKIT_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr").open("wb"),
    )


def failed(what: str, folder: Path) -> NoReturn:
    """Exit with the end of what the launcher wrote."""
    written = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
    sys.exit("\n".join([what, *written.splitlines()[-10:]]))


def used() -> float:
    """CPU seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show_config(overrides: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of `--cfg job`."""
    before, begin = used(), time.perf_counter()
    if launch(["--cfg", "job", *overrides], folder).wait():
        failed(f"--cfg job failed with {overrides}:", folder)
    return time.perf_counter() - begin, used() - before


def first_step(overrides: list[str], folder: Path, name: str) -> float:
    """Wall seconds from start to the first logged loss; the run then ends by itself."""
    metrics = folder / name / "metrics.jsonl"
    begin = time.perf_counter()
    process = launch([*overrides, *FIRST_STEP, f"hydra.run.dir={folder / name}"], folder)
    while not (metrics.exists() and '"loss"' in metrics.read_text()):
        if process.poll() is not None:
            failed("the run ended before its first step:", folder)
        time.sleep(0.01)
    seconds = time.perf_counter() - begin
    process.wait()
    return seconds


def main() -> None:
    """Measure both three times, and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="for launch.py; default: the quickstart")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    overrides = options.overrides or ["experiments=quickstart"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shown = [show_config(overrides, folder) for _ in range(3)]
        cold = first_step(overrides, folder, "cold")
        warm = [first_step(overrides, folder, f"warm{i}") for i in range(3)]
    result = {
        "cfg_job_seconds": statistics.median(wall for wall, _ in shown),
        "cfg_job_processor_seconds": statistics.median(processor for _, processor in shown),
        "first_step_seconds": statistics.median(warm),
        "first_step_cold_seconds": cold,
    }
    for name, seconds in result.items():
        print(f"{name:28}{seconds:8.2f} s")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
