"""A whole checkpoint of small files, published as training publishes its own."""

from __future__ import annotations

import json
from pathlib import Path

from sparsekit.training import checkpoints

FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors")


def write_checkpoint(folder: Path, step: int) -> Path:
    """Write `checkpoint-<step>` into the run's folder of checkpoints."""
    unfinished = folder / checkpoints.UNFINISHED / f"checkpoint-{step}"
    unfinished.mkdir(parents=True)
    for name in FILES:
        (unfinished / name).write_bytes(b"content of " + name.encode())
    state = {"epoch": step / 10, "global_step": step}
    (unfinished / checkpoints.STATE).write_text(json.dumps(state))
    return checkpoints.publish(unfinished, folder, {"seed": 1})
