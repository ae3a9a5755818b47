"""Trains with SparseTrainer and saves the weights of each process: as a script, by torchrun.

torchrun --nproc_per_node=2 shared_api.py STUDENT FOLDER ROWS_PER_PROCESS [stopped | resumed]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from api_training import tokenized, trainer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
    set_seed,
)

from sparsekit.distributed import FIRST_PROCESS
from sparsekit.training.arguments import SparseTrainingArguments

MODIFIERS = "sparsekit.modifiers"
# The first layer is trained in the second epoch alone.
RECIPE = {
    "num_epochs": 2,
    "modifiers": {
        "rate": {"_target_": f"{MODIFIERS}.optimizer.SetLearningRate", "learning_rate": 1e-2},
        "frozen": {
            "_target_": f"{MODIFIERS}.trainable.TrainableParams",
            "params": ["re:bert.encoder.layer.0.*"],
            "trainable": False,
            "end": 1.0,
        },
        "pruning": {"_target_": f"{MODIFIERS}.pruning.constant.ConstantPruning"},
        "distillation": {
            "_target_": f"{MODIFIERS}.distillation.logits.Distillation",
            "hardness": 0.5,
        },
    },
}
LATE = "bert.encoder.layer.0.output.dense.weight"


class Stop(TrainerCallback):
    """Ends training as a signal does, after the first epoch's checkpoint."""

    def on_save(self, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt


def train(student: str, folder: Path, batch_size: int, stopped: bool, resume: bool) -> Any:
    """The trained model; None where it was `stopped`."""
    tokenizer = AutoTokenizer.from_pretrained(student)
    set_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(student, num_labels=2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    args = SparseTrainingArguments(
        str(folder),
        per_device_train_batch_size=batch_size,
        optim="sgd",
        precision="fp32",
        save_strategy="epoch",
        eval_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        resume_from_checkpoint="auto" if resume else None,
    )
    callbacks = [Stop()] if stopped else []
    options: dict[str, Any] = {"recipe": RECIPE, "teacher": "self", "callbacks": callbacks}
    made = trainer(model, tokenizer, tokenized(tokenizer), folder, args=args, **options)
    try:
        made.train()
    except KeyboardInterrupt:
        return None
    made.save_model()
    return model


if __name__ == "__main__":
    student, folder, batch_size, *how = sys.argv[1:]
    model = train(student, Path(folder), int(batch_size), "stopped" in how, "resumed" in how)
    if model is not None:
        name = "first" if FIRST_PROCESS else "second"
        torch.save(model.state_dict(), f"{folder}-{name}.pt")
