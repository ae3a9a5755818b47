"""The stages of a run before its export: each writes its part of the run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import Dataset
from rich.console import Console
from safetensors.torch import load_file
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from sparsekit import metrics
from sparsekit.config.identity import identity_hash
from sparsekit.data.collator import Collator
from sparsekit.data.datasets import TextData
from sparsekit.data.labels import matching_order
from sparsekit.distributed import FIRST_PROCESS
from sparsekit.errors import ConfigError
from sparsekit.metrics.report import write_report
from sparsekit.models.loading import Classifier, id2label
from sparsekit.models.predict import predict_logits
from sparsekit.models.pruning import sparsity
from sparsekit.models.teacher import (
    Checkpoint,
    Self,
    add_logits,
    live_teacher,
    logits_of,
    teacher_logits,
)
from sparsekit.modifiers.quantization.fake_quantize import unseen
from sparsekit.pipeline.plan import Plan
from sparsekit.recipe import schedule
from sparsekit.runs.progress import progress
from sparsekit.runs.tracking import Tracker
from sparsekit.runs.tracking_callback import TrackerCallback
from sparsekit.system import versions
from sparsekit.training.arguments import matmul_precision
from sparsekit.training.callbacks import assert_masks
from sparsekit.training.cpu.allocator import keep_freed_memory
from sparsekit.training.trainer import SparseTrainer

LOG = logging.getLogger(__name__)

Rows = dict[str, Dataset]


def identity(values: Mapping[str, Any], names: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Save the resolved config; return what tells this run from others: names, hash and seed."""
    text = yaml.safe_dump(dict(values), sort_keys=False)
    (folder / "config.yaml").write_text(text)
    return {"config": {**names, "hash": identity_hash(values)}, "seed": values["seed"]}


def load_data(plan: Plan) -> TextData:
    """The data, its labels in the student's order where the student names the same labels."""
    data = plan.dataset.load()
    order = matching_order(data.label_names, id2label(plan.student.config()))
    if order is None or order == sorted(order):
        return data
    return data.with_label_order([data.label_names[order.index(i)] for i in range(len(order))])


def teach(
    plan: Plan, student: Classifier, data: TextData, rows: Rows, finetune: Callable[[], Path]
) -> tuple[Rows, dict[str, Any]]:
    """Training rows with the column `teacher_logits`, and the teacher's own scores.

    Layers that are to be imitated get the teacher itself. A recipe that gives the teacher no weight
    does not run it.
    """
    distilled = plan.recipe.needs_teacher("logits")
    if not distilled and not plan.recipe.needs_teacher("model"):
        return rows, {}
    folders = teacher_folders(plan, data, finetune)
    keep_freed_memory()
    splits = ["validation", "train"] if distilled else ["validation"]
    with matmul_precision(plan.training.matmul_precision):
        if folders:
            each = [teacher_logits(folder, data, splits) for folder in folders]
            logits = {
                split: np.stack([one[split] for one in each]).mean(axis=0) for split in splits
            }
        else:
            logits = {split: logits_of(student, data, split) for split in splits}
    plan.recipe.use_teacher(lambda: live_teacher(folders, student, data))
    labels = np.array(rows["validation"]["labels"])
    scores = metrics.compute(plan.dataset.metrics, logits["validation"], labels)
    taught = {**rows, "train": add_logits(rows["train"], logits["train"])} if distilled else rows
    return taught, {"teacher": {"validation": scores}}


def teacher_folders(plan: Plan, data: TextData, finetune: Callable[[], Path]) -> list[Path]:
    """The folders of the run's teachers; none where the student teaches itself."""
    if isinstance(plan.teacher, Checkpoint):
        return plan.teacher.fetch(data.label_names)
    return [] if isinstance(plan.teacher, Self) else [finetune()]


def make_trainer(
    plan: Plan, student: Classifier, rows: Rows, folder: Path, tracker: Tracker
) -> SparseTrainer:
    """The trainer, with the schedule printed and everything it logs kept in the run folder."""

    def compute_metrics(prediction: Any) -> dict[str, float]:
        return metrics.compute(plan.dataset.metrics, prediction.predictions, prediction.label_ids)

    trainer = SparseTrainer(
        plan.recipe,
        student.model,
        plan.training,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=student.tokenizer,
        data_collator=Collator(student.tokenizer),
        compute_metrics=compute_metrics,
        callbacks=[ScheduleCallback(plan, folder), TrackerCallback(tracker)],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(progress())
    return trainer


class ScheduleCallback(TrainerCallback):
    """Prints and saves the recipe in optimizer steps, once the Trainer knows how many there are."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._folder = plan, folder

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        write_schedule(self._plan, state.max_steps, self._folder)


def write_schedule(plan: Plan, total_steps: int, folder: Path) -> None:
    """Print the recipe in optimizer steps, and write it to `schedule.json`.

    Raises ConfigError where a model would be exported that no step has quantized. The plan knows
    that only of a run with `training.max_steps`; how many steps an epoch has is known here.
    """
    Console(stderr=True).print(schedule.table(plan.recipe, total_steps))
    rows = schedule.windows(plan.recipe, total_steps)
    text = json.dumps({"total_steps": total_steps, "modifiers": rows}, indent=2)
    (folder / "schedule.json").write_text(text + "\n")
    if plan.export and (problems := plan.recipe.step_problems(total_steps)):
        raise ConfigError(problems)


def train(plan: Plan, student: Classifier, trainer: SparseTrainer, folder: Path) -> dict[str, Any]:
    """Train, save `model/` with its recipe, and prove from the saved file that masks held."""
    plan.recipe.save(folder / "recipe.yaml", {})
    result = trainer.train(resume_from_checkpoint=plan.training.resume_from_checkpoint)
    plan.recipe.detach(student.model)
    model = folder / "model"
    trainer.save_model(str(model))
    trainer.save_state()
    if not FIRST_PROCESS:
        return {}
    measured = {
        "seconds": result.metrics["train_runtime"],
        "steps": result.global_step,
        "samples_per_second": result.metrics["train_samples_per_second"],
        "sparse_layers": trainer.sparse_layers,
    }
    return trained(plan, student, folder, measured, plan.training.precision)


def trained(
    plan: Plan, student: Classifier, folder: Path, measured: dict[str, Any], precision: str
) -> dict[str, Any]:
    """Save the recipe in `model/`, prove that masks held there; `measured` is `summary.train`."""
    model = folder / "model"
    plan.recipe.save(
        model / "recipe.yaml",
        {
            "per_device_train_batch_size": plan.training.per_device_train_batch_size,
            "gradient_accumulation_steps": plan.training.gradient_accumulation_steps,
            "precision": precision,
            "seed": plan.training.seed,
            "steps": measured["steps"],
            "versions": versions(),
        },
    )
    assert_masks(plan.recipe, load_file(model / "model.safetensors"), f"in {model}")
    if blind := unseen(student.model):
        LOG.warning(
            "%d quantizers never saw a number, so that most weights become zero, among them %s: "
            "training ended before quantization began; train more steps, or begin earlier "
            "(recipe.qat_epochs)",
            len(blind),
            blind[0],
        )
    return {
        "train": measured,
        "sparsity": sparsity(student.model),
        "quantization": {"modules": plan.recipe.quantized_modules},
    }


def evaluate(
    plan: Plan, student: Classifier, data: TextData, rows: Rows, folder: Path
) -> dict[str, Any]:
    """Score every split but train as it ships, quantizers on; keep each row's logits on disk."""
    scores = {}
    (folder / "evaluation").mkdir(exist_ok=True)
    for split in rows.keys() - {"train"}:
        logits = predict_logits(student.model, rows[split], student.tokenizer)
        labels = np.array(rows[split]["labels"])
        scores[split] = metrics.compute(plan.dataset.metrics, logits, labels)
        write_report(folder / "evaluation", split, logits, labels, data.label_names)
        table = data.splits[split]
        if "text_pair" not in table.column_names:
            table = table.add_column("text_pair", [None] * len(table))
        table = table.add_column("logits", logits.tolist())
        table.to_parquet(str(folder / "evaluation" / f"{split}.parquet"))
    return {"metrics": scores}


def without_saving(training: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Training arguments for a teacher, whose checkpoints nobody resumes."""
    return {**training, "save_strategy": "no", "resume_from_checkpoint": None, **changes}
