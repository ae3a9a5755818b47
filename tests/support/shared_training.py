"""Trains each setting and saves its weights and losses: as a script, on torchrun's processes.

torchrun --nproc_per_node=2 shared_training.py STUDENT FOLDER ROWS_PER_PROCESS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tiny_training import load_student, make_rows, recipe, trainer

from sparsekit.training.processes import leave

# Rows: 61 leave a last batch of 13, which two processes cannot halve.
SETTINGS: dict[str, dict[str, Any]] = {
    "by-length": {"train_sampling_strategy": "group_by_length"},
    "random": {"train_sampling_strategy": "random"},
    "accumulated": {"train_sampling_strategy": "group_by_length", "gradient_accumulation_steps": 2},
    "no-tail": {"train_sampling_strategy": "group_by_length", "dataloader_drop_last": True},
}


def train(
    student: str,
    folder: Path,
    batch_size: int,
    setting: str,
    resumed: Path | None = None,
    **arguments: Any,
) -> dict[str, Any] | None:
    """Weights and logged losses after three epochs with KD, masks and QAT; None of a helper."""
    loaded = load_student(student)
    rows = make_rows(loaded)
    rows["train"] = rows["train"].select(range(61))
    made = trainer(
        folder,
        loaded,
        rows,
        # Observers stay on until the end; a learning rate at which roundings do not grow.
        recipe(num_epochs=3, init_lr=1e-3),
        use_cpu=False,
        seed=3,
        per_device_train_batch_size=batch_size,
        optim="sgd",
        **SETTINGS[setting] | arguments,
    )
    made.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    if not made.is_world_process_zero():
        return None
    logged = {
        f"{name} {event['step']}": event[name]
        for event in made.state.log_history
        for name in ("loss", "task_loss", "kd_loss", "grad_norm")
        if name in event
    }
    return {"weights": dict(loaded.model.state_dict()), "logged": logged}


def train_resumed(student: str, folder: Path, batch_size: int) -> dict[str, Any] | None:
    """Weights of an unbroken run, and of one resumed from its checkpoint within an epoch."""
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole = train(student, folder, batch_size, "by-length", **saving)
    resumed = train(student, folder, batch_size, "by-length", folder / "checkpoint-6")
    if whole is None or resumed is None:
        return None
    return {"whole": whole["weights"], "resumed": resumed["weights"]}


if __name__ == "__main__":
    student, folder, batch_size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    for name in SETTINGS:
        trained = train(student, folder / "checkpoints", batch_size, name)
        if trained is not None:
            torch.save(trained, folder / f"{name}.pt")
    both = train_resumed(student, folder / "resumed", batch_size)
    if both is not None:
        torch.save(both, folder / "resumed.pt")
    leave()
