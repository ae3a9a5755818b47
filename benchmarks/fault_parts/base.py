"""The run that is attacked: the tests' tiny BERT, trained, exported and timed by the launcher."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def write_inputs(scratch: Path) -> list[str]:
    """Write model and data; returns the overrides of a run of six steps on them."""
    import hub_seed

    hub_seed.write(scratch / "hub")
    rows = hub_seed.reviews(128, seed=0)
    overrides = ["dataset=csv", "training=smoke", "tracking=none"]
    # The student's head is new: it may not learn from itself alone.
    overrides += ["teacher=self", "recipe.distill_hardness=0.5"]
    for split, part in (("train", rows[:96]), ("validation", rows[96:])):
        file = scratch / f"{split}.csv"
        with file.open("w", newline="", encoding="utf-8") as output:
            writer = csv.DictWriter(output, list(part[0]))
            writer.writeheader()
            writer.writerows(part)
        overrides.append(f"dataset.data_files.{split}={file}")
    return [
        *overrides,
        f"student.checkpoint={scratch / 'hub' / 'models' / hub_seed.STUDENT}",
        *("training.max_steps=6", "training.save_strategy=steps", "+training.save_steps=2"),
        *("training.save_total_limit=5", "training.disable_tqdm=true"),
        *("runtime.warmup=1", "runtime.requests=2"),
    ]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "sparsekit", *words]


def start(folder: Path, overrides: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a run into `folder`."""
    return subprocess.Popen(
        command("train", *overrides, f"hydra.run.dir={folder}"),
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell ignores SIGINT, one of nohup SIGHUP, and so would its runs.
        preexec_fn=_heed_signals,
    )


def _heed_signals() -> None:
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)


def base_run(scratch: Path, inputs: list[str]) -> Path:
    """The unbroken run."""
    process = start(scratch / "run", inputs)
    _, shown = process.communicate()
    if process.returncode:
        sys.exit(f"the run that is to be attacked failed:\n{shown[-3000:]}")
    return scratch / "run"
