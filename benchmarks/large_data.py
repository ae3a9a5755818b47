"""The most memory that a run takes on a large data set.

    python benchmarks/large_data.py                     # 500,000 rows of some 12 words
    python benchmarks/large_data.py --rows 5000 --limit-gib 2

Trains the tests' tiny BERT for 20 steps on a csv file of so many rows, which no cache knows, and
prints one line: {"rows", "csv_mb", "peak_gib", "seconds"}. `peak_gib` is the largest resident
memory of the run's process. The exit code is 1 where it is above --limit-gib.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="The memory of a run on many rows.")
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--limit-gib", type=float, default=4.0)
    chosen = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="sparsekit-rows-") as name:
        scratch = Path(name)
        overrides = write_inputs(scratch, chosen.rows)
        megabytes = round((scratch / "train.csv").stat().st_size / 1e6, 1)
        begin = time.monotonic()
        peak = peak_gib(scratch, overrides)
    figures = {"rows": chosen.rows, "csv_mb": megabytes, "peak_gib": peak}
    print(json.dumps({**figures, "seconds": round(time.monotonic() - begin)}))
    sys.exit(peak > chosen.limit_gib)


def write_inputs(scratch: Path, rows: int) -> list[str]:
    """Write a model, a large training and a small validation file; returns the overrides."""
    import hub_seed

    hub_seed.write(scratch / "hub")
    reviews = hub_seed.reviews(1000, seed=0)
    for split, count in (("train", rows), ("validation", 100)):
        with (scratch / f"{split}.csv").open("w", newline="", encoding="utf-8") as output:
            writer = csv.DictWriter(output, list(reviews[0]))
            writer.writeheader()
            for number in range(count):
                review = reviews[number % len(reviews)]
                writer.writerow({**review, "text": f"{review['text']} {split} {number}"})
    student = scratch / "hub" / "models" / hub_seed.STUDENT
    return [
        *("dataset=csv", "teacher=self", "training=smoke", "tracking=none", "runtime=none"),
        *(f"dataset.data_files.{split}={scratch / split}.csv" for split in ("train", "validation")),
        *(f"student.checkpoint={student}", "training.max_steps=20", "training.disable_tqdm=true"),
    ]


def peak_gib(scratch: Path, overrides: list[str]) -> float:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *overrides, f"output_dir={scratch / 'run'}"],
        cwd=scratch,
        env=os.environ | {"SPARSEKIT_CACHE": str(scratch / "cache")},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit("the run failed")
    return round(used.ru_maxrss / 2**20, 2)


if __name__ == "__main__":
    main()
