"""The most memory that a run takes on a large data set.

    python benchmarks/large_data.py                     # 500,000 rows of some 12 words
    python benchmarks/large_data.py --rows 5000 --limit-gib 2
    python benchmarks/large_data.py --streaming --rows 5000000 --limit-gib 2

Trains the tests' tiny BERT on a csv file of so many rows, which no cache knows: 20 steps, or with
--streaming (dataset.streaming=true) as many as read every row once. Prints one line:
{"rows", "streaming", "csv_mb", "peak_gib", "cache_mb", "seconds"}. `peak_gib` is the largest
resident memory of the run's process, `cache_mb` what it left in the cache. The exit code is 1 where
the memory is above --limit-gib.
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
# Rows of a batch with --streaming: large, so that reading takes its share of the time.
STREAMED_BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description="The memory of a run on many rows.")
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--streaming", action="store_true")
    chosen = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="sparsekit-rows-") as name:
        scratch = Path(name)
        overrides = write_inputs(scratch, chosen.rows)
        if chosen.streaming:
            steps = -(-chosen.rows // STREAMED_BATCH)
            overrides += [
                *("dataset.streaming=true", f"training.max_steps={steps}", "teacher=none"),
                *("export=none", f"training.per_device_train_batch_size={STREAMED_BATCH}"),
                "dataset.max_length=32",
            ]
        megabytes = round((scratch / "train.csv").stat().st_size / 1e6, 1)
        begin = time.monotonic()
        peak = peak_gib(scratch, overrides)
        seconds = round(time.monotonic() - begin)
        files = [file for file in (scratch / "cache").rglob("*") if file.is_file()]
        cached = round(sum(file.stat().st_size for file in files) / 1e6, 1)
    figures = {"rows": chosen.rows, "streaming": chosen.streaming, "csv_mb": megabytes}
    print(json.dumps({**figures, "peak_gib": peak, "cache_mb": cached, "seconds": seconds}))
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
                # No two rows are the same.
                writer.writerow({**review, "text": f"{review['text']} {split} {number}"})
    student = scratch / "hub" / "models" / hub_seed.STUDENT
    return [
        *("dataset=csv", "training=smoke", "tracking=none", "runtime=none"),
        # The student's head is new: it may not learn from itself alone.
        *("teacher=self", "recipe.distill_hardness=0.5"),
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
