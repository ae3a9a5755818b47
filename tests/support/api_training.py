"""SparseTrainer on tiny data, called as a notebook calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hub_seed
from datasets import ClassLabel, Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from sparsekit.training.trainer import SparseTrainer

RECIPE = """
num_epochs: 2
init_lr: 0.001
modifiers:
  learning_rate:
    _target_: sparsekit.modifiers.optimizer.LearningRateFunction
    init_lr: ${recipe.init_lr}
    final_lr: 0.0
  pruning:
    _target_: sparsekit.modifiers.pruning.constant.ConstantPruning
  distillation:
    _target_: sparsekit.modifiers.distillation.logits.Distillation
    hardness: 0.5
"""


def tokenized(tokenizer: PreTrainedTokenizerBase) -> dict[str, Dataset]:
    """24 training and 16 validation reviews, tokenized as a tutorial does."""
    made = Dataset.from_list(hub_seed.reviews(40, seed=0))
    made = made.cast_column("label", ClassLabel(names=["neg", "pos"]))
    rows = made.map(lambda rows: tokenizer(rows["text"], truncation=True), batched=True)
    return {"train_dataset": rows.select(range(24)), "eval_dataset": rows.select(range(24, 40))}


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """Three steps an epoch on the CPU, without reports."""
    return TrainingArguments(
        str(folder),
        **{
            "use_cpu": True,
            "per_device_train_batch_size": 8,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **changes,
        },
    )


def trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    folder: Path,
    **options: Any,
) -> SparseTrainer:
    """A trainer that writes to `folder`; `options` replace or add arguments."""
    args = options.pop("args", None) or arguments(folder)
    given = {"recipe": RECIPE, "processing_class": tokenizer, "args": args, **data, **options}
    return SparseTrainer(model, given.pop("recipe"), **given)
