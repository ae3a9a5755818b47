"""Whether training can go on at a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def checkpoint_problem(folder: Path, epochs: float, max_steps: int) -> str | None:
    """What keeps training for so many epochs, or steps where positive, from going on there.

    A killed run may leave half a checkpoint. At one past the end, transformers would train no step
    and give back the checkpoint in silence.
    """
    name = f"training.resume_from_checkpoint {folder}"
    lacking = [file for file in _FILES if not (folder / file).is_file()]
    if lacking:
        return (
            f"{name} is no whole checkpoint: it lacks {', '.join(lacking)}; name a "
            "checkpoints/checkpoint-* folder of a run"
        )
    state = json.loads((folder / _FILES[0]).read_text())
    done, end, key = state["epoch"] or 0, epochs, "recipe.num_epochs"
    if max_steps > 0:
        done, end, key = state["global_step"], max_steps, "training.max_steps"
    if done <= end:
        return None
    return f"{name} stands at {done:g}, past {key}={end:g}; set that higher or start anew"
