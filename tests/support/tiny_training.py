"""A tiny student, its rows and its trainer, for tests that train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hub_seed
import torch
from datasets import Dataset
from transformers import TrainerCallback

from sparsekit.models.loading import LoadedModel, Student
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.tasks.base import Data, Task
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.tokens import tokenize
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.recipe_trainer import RecipeTrainer

TASK = TextClassification(max_length=64)

Rows = dict[str, Dataset]
LABELS = ["neg", "pos"]


def load_student(folder: str) -> LoadedModel:
    """The pruned student, with the same new head each time, and without dropout."""
    torch.manual_seed(1)
    loaded = Student(checkpoint=folder).load(TASK, LABELS)
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return loaded


def make_rows(student: LoadedModel) -> Rows:
    """64 training and 32 validation reviews, with the logits of a teacher that is sure."""
    made = hub_seed.reviews(96, seed=0)
    parts = {"train": made[:64], "validation": made[64:]}
    splits = {name: Dataset.from_list(part) for name, part in parts.items()}
    tokens = tokenize(
        Data(TASK, splits, LABELS),
        student.tokenizer,
        student.tokenizer_hash,
    )
    logits = torch.nn.functional.one_hot(torch.tensor(tokens["train"]["labels"]), 2) * 4.0
    tokens["train"] = tokens["train"].add_column("teacher_logits", logits.tolist())
    return tokens


def trainer(
    folder: Path,
    student: LoadedModel,
    rows: Rows,
    recipe: Recipe,
    callbacks: list[TrainerCallback] | None = None,
    task: Task = TASK,
    **arguments: Any,
) -> RecipeTrainer:
    """A trainer of 8 steps an epoch, which attaches `recipe`."""
    args = SparseTrainingArguments(
        output_dir=str(folder),
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        logging_strategy="steps",
        logging_steps=1,
        **{
            "num_train_epochs": recipe.num_epochs,
            "precision": "fp32",
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "per_device_train_batch_size": 8,
            **arguments,
        },
    )
    return RecipeTrainer(
        student.model,
        recipe,
        RunFolder(folder),
        task,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=student.tokenizer,
        callbacks=callbacks or [],
    )


CONSTANT = {"_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning"}


def recipe(
    num_epochs: float = 2,
    hardness: float = 0.5,
    qat_start: float | None = 1.0,
    init_lr: float = 0.01,
    pruning: Mapping[str, Any] = CONSTANT,
) -> Recipe:
    modifiers: dict[str, Any] = {
        "learning_rate": {
            "_target_": "sparsekit.modifiers.optimizer.LearningRateFunction",
            "init_lr": init_lr,
            "final_lr": 0.0,
        },
        "pruning": dict(pruning),
        "distillation": {
            "_target_": "sparsekit.modifiers.distillation.logits.Distillation",
            "hardness": hardness,
        },
        "weight_decay": {
            "_target_": "sparsekit.modifiers.optimizer.SetWeightDecay",
            "weight_decay": 0.25,
        },
    }
    if qat_start is not None:
        modifiers["quantization"] = {
            "_target_": "sparsekit.modifiers.quantization.qat.Quantization",
            "start": qat_start,
            "disable_observer_epoch": num_epochs - 0.25,
        }
    return Recipe.build({"num_epochs": num_epochs, "modifiers": modifiers})
