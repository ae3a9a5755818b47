"""Runs that are killed at some moment, resumed, and compared with an unbroken one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from fault_parts.base import ROOT, command, start

# Runs are killed when one of these appears, in the order in which a run writes them.
MOMENTS = (
    ".hydra/overrides.yaml",
    "schedule.json",
    "checkpoints/checkpoint-2",
    "checkpoints/checkpoint-4",
    "checkpoints/checkpoint-6",
    "model/model.safetensors",
    "evaluation/validation.parquet",
    "deployment/model.onnx",
)
SAME = ("model/model.safetensors", "deployment/model.onnx")


def try_kills(run: Path, scratch: Path, inputs: list[str], count: int) -> dict[str, int]:
    """Kill `count` runs, each when another file appears; a second round kills a little later."""
    counts = {"tried": 0, "bit_equal": 0}
    for number in range(count):
        folder = scratch / f"killed-{number}"
        process = start(folder, inputs)
        later, moment = divmod(number, len(MOMENTS))
        while not (folder / MOMENTS[moment]).exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(0.1 * later)
        process.send_signal(signal.SIGKILL)
        process.wait()
        begun = sorted(path.name for path in folder.glob("checkpoints/checkpoint-*"))
        resumed = subprocess.run(
            command("resume", str(folder)) if folder.exists() else command("train", *inputs),
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        counts["tried"] += 1
        equal = resumed.returncode == 0 and all(
            (folder / name).read_bytes() == (run / name).read_bytes() for name in SAME
        )
        counts["bit_equal"] += equal
        shown = ", ".join(begun) or "no checkpoint"
        print(f"killed at {MOMENTS[moment]} with {shown}: bit equal: {equal}", flush=True)
        if not equal:
            print(resumed.stderr[-1000:])
        shutil.rmtree(folder, ignore_errors=True)
    return counts
