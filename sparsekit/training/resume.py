"""Which checkpoint training is resumed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsekit.errors import ConfigError, parse_json
from sparsekit.training.checkpoints import STATE, checkpoints, damage, newest_whole

KEY = "resume_from_checkpoint"
NEWEST = ("auto", "true")


def chosen_checkpoint(choice: str | bool | None, own: Path) -> Path | None:
    """The checkpoint folder that `training.resume_from_checkpoint=choice` means.

    choice: auto, the newest whole checkpoint in `own`, or None where there is none; true, the
        same, but there must be one; a run folder or its `checkpoints/`, the newest whole one there;
        or a checkpoint folder.
    own: the run folder or its `checkpoints/`.

    Raises ConfigError that names what is lacking. Warns of damaged checkpoints that are passed
    over.
    """
    word = str(choice).lower()
    if choice is None or word in ("", "false", "null", "none"):
        return None
    if word in NEWEST:
        newest = newest_whole(_holder(own) or own)
        if newest is None and word == "true":
            raise ConfigError(
                [
                    f"`{KEY}=true`, but there is no whole checkpoint in {own}; auto starts "
                    "without one"
                ]
            )
        return newest
    folder = Path(str(choice))
    if (holder := _holder(folder)) is not None:
        newest = newest_whole(holder)
        if newest is None:
            raise ConfigError([f"`{KEY}={choice}`: no checkpoint in {holder} is whole"])
        return newest
    if problem := damage(folder):
        raise ConfigError(
            [
                f"`{KEY}` {folder} is not a complete checkpoint: {problem}; name a run folder, one "
                "of its checkpoints/checkpoint-* folders, or auto"
            ]
        )
    return folder


def _holder(folder: Path) -> Path | None:
    """Which folder has the checkpoints of `folder`, a run folder or its `checkpoints/`, if any."""
    return next((one for one in (folder / "checkpoints", folder) if checkpoints(one)), None)


def past_the_end(checkpoint: Path, epochs: float, max_steps: int) -> str | None:
    """Why a run of `epochs`, or of `max_steps` if positive, cannot resume there, or None.

    From a checkpoint past the end transformers would silently train no step and return the
    checkpoint itself.
    """
    state = _state(checkpoint)
    done, end, key = state["epoch"] or 0, epochs, "recipe.num_epochs"
    if max_steps > 0:
        done, end, key = state["global_step"], max_steps, "training.max_steps"
    if done <= end:
        return None
    return (
        f"training.{KEY} {checkpoint} is at {done:g}, past {key}={end:g}; set that higher, "
        "or train from the start"
    )


def resumed_step(checkpoint: str | bool | None) -> int | None:
    """The optimizer step from which a run goes on; None for a run from the start."""
    return int(_state(Path(str(checkpoint)))["global_step"]) if checkpoint else None


def _state(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = parse_json((checkpoint / STATE).read_text(encoding="utf-8"))
    return state
