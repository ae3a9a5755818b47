"""Whether training can be resumed from a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def checkpoint_problem(folder: Path, epochs: float, max_steps: int) -> str | None:
    """Why a run of `epochs`, or of `max_steps` if positive, cannot resume from `folder`, or None.

    A run that was killed may leave an incomplete checkpoint. From a checkpoint past the end
    transformers would silently train no step and return the checkpoint itself.
    """
    name = f"training.resume_from_checkpoint {folder}"
    lacking = [file for file in _FILES if not (folder / file).is_file()]
    if lacking:
        return (
            f"{name} is not a complete checkpoint: it lacks {', '.join(lacking)}; name a "
            "checkpoints/checkpoint-* folder of a run"
        )
    state = json.loads((folder / _FILES[0]).read_text())
    done, end, key = state["epoch"] or 0, epochs, "recipe.num_epochs"
    if max_steps > 0:
        done, end, key = state["global_step"], max_steps, "training.max_steps"
    if done <= end:
        return None
    return f"{name} is at {done:g}, past {key}={end:g}; set that higher, or train from the start"
