"""Runs that are killed at some moment, resumed, and compared with an unbroken one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from fault_parts.base import ROOT, command, start

SAME = ("model/model.safetensors", "deployment/model.onnx")


def try_kills(run: Path, scratch: Path, inputs: list[str], count: int) -> dict[str, int]:
    """Kill `count` runs, each at a later moment between its first and its last file."""
    counts = {"tried": 0, "bit_equal": 0}
    seconds = _time(scratch, inputs)
    for number in range(count):
        folder = scratch / f"killed-{number}"
        process = start(folder, inputs)
        time.sleep(seconds * (number + 1) / (count + 1))
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
        print(f"killed with {', '.join(begun) or 'no checkpoint'}: bit equal: {equal}", flush=True)
        if not equal:
            print(resumed.stderr[-1000:])
        shutil.rmtree(folder, ignore_errors=True)
    return counts


def _time(scratch: Path, inputs: list[str]) -> float:
    """The seconds of a whole run, its tokens in the cache."""
    begin = time.monotonic()
    start(scratch / "timed", inputs).communicate()
    shutil.rmtree(scratch / "timed")
    return time.monotonic() - begin
