"""A student that a task trains in five epochs: taught by itself, and quantized in the last two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset

from sparsekit.models.loading import LoadedModel
from sparsekit.tasks.base import Task
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.trainer import SparseTrainer

RECIPE: dict[str, Any] = {
    "num_epochs": 5,
    "modifiers": {
        "rate": {
            "_target_": "sparsekit.modifiers.optimizer.LearningRateFunction",
            "init_lr": 5e-3,
            "final_lr": 0.0,
        },
        "distillation": {
            "_target_": "sparsekit.modifiers.distillation.logits.Distillation",
            "hardness": 0.1,
        },
        "quantization": {
            "_target_": "sparsekit.modifiers.quantization.qat.Quantization",
            "start": 3.0,
            "disable_observer_epoch": 4.5,
        },
    },
}


def trained(
    folder: Path, student: LoadedModel, task: Task, train: Dataset, validation: Dataset
) -> SparseTrainer:
    """The trainer after training, its model saved in the run folder `folder`."""
    trainer = SparseTrainer(
        student.model,
        RECIPE,
        task=task,
        teacher="self",
        args=SparseTrainingArguments(
            output_dir=str(folder),
            use_cpu=True,
            per_device_train_batch_size=16,
            save_strategy="no",
        ),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=student.tokenizer,
    )
    trainer.train()
    trainer.save_model()
    return trainer
