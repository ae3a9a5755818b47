"""Trains each setting and saves its weights and losses: as a script, on torchrun's processes.

torchrun --nproc_per_node=2 shared_training.py STUDENT FOLDER ROWS_PER_PROCESS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_training import load_student, make_rows, recipe, trainer
from torch import nn

from sparsekit.modifiers.processes import several
from sparsekit.training.processes import leave

# Rows: 61 leave a last batch of 13, which two processes cannot halve.
SETTINGS: dict[str, dict[str, Any]] = {
    "by-length": {"train_sampling_strategy": "group_by_length"},
    "random": {"train_sampling_strategy": "random"},
    "accumulated": {"train_sampling_strategy": "group_by_length", "gradient_accumulation_steps": 2},
    "no-tail": {"train_sampling_strategy": "group_by_length", "dataloader_drop_last": True},
    "surgeon": {"train_sampling_strategy": "random"},
    "structured": {"train_sampling_strategy": "random"},
}
SURGEON = {
    "_target_": "sparsekit.modifiers.pruning.obs.OBSPruning",
    **{"start": 0.0, "end": 2.0, "update_frequency": 0.5, "params": ["__ENCODER__"]},
    **{"init_sparsity": 0.9, "final_sparsity": 0.97, "num_grads": 8, "fisher_block_size": 4},
}
STRUCTURED = {
    "_target_": "sparsekit.modifiers.pruning.structured.StructuredPruning",
    **{"start": 0.0, "end": 2.0, "update_frequency": 0.5, "method": "obs", "rows": 8},
    **{"heads": 0.5, "neurons": 0.5},
}
PRUNING = {"surgeon": {"pruning": SURGEON}, "structured": {"pruning": STRUCTURED}}


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
        recipe(num_epochs=3, init_lr=1e-3, **PRUNING.get(setting, {})),
        use_cpu=False,
        seed=3,
        per_device_train_batch_size=batch_size,
        optim="sgd",
        **SETTINGS[setting] | arguments,
    )
    if setting in PRUNING and not made.is_world_process_zero():
        # As a GPU whose sums differ: other gradients, and the masks of the first process even so.
        made.recipe.use_rows(lambda count, seed, each: made._draw(count, seed + 1, each))
    made.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    check_same(loaded.model)
    if not made.is_world_process_zero():
        return None
    logged = {
        f"{name} {event['step']}": event[name]
        for event in made.state.log_history
        for name in ("loss", "task_loss", "kd_loss", "grad_norm")
        if name in event
    }
    return {"weights": dict(loaded.model.state_dict()), "logged": logged}


def check_same(model: nn.Module) -> None:
    """Every process has the weights of the first one, to the bit."""
    if not several():
        return
    for name, value in model.state_dict().items():
        first = value.clone()
        dist.broadcast(first, 0)
        assert torch.equal(value, first), name


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
