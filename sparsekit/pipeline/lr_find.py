"""`sparsekit lr-find`: a learning rate range test of the run that a config describes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback

from sparsekit.errors import ConfigError, UserError
from sparsekit.models.pruning import sparsity
from sparsekit.pipeline import stages
from sparsekit.pipeline.experiment import CHOOSES_CHECKPOINTS
from sparsekit.pipeline.plan import OWN_ENGINE, Plan
from sparsekit.pipeline.shrinking import load_student
from sparsekit.pipeline.taught_texts import without_more_texts
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.sparsity.pruned import is_pruned
from sparsekit.tasks.config import build_task
from sparsekit.tasks.tokens import tokenize
from sparsekit.training.range_test import LossRecorder, RangeTest, smoothed
from sparsekit.training.recipe_trainer import RecipeTrainer

# Of the training arguments, those that would do more than train some steps.
_LEFT_OUT = (
    *(*CHOOSES_CHECKPOINTS, "resume_despite_changes", "resume_from_checkpoint"),
    *("eval_strategy", "eval_steps", "save_steps", "save_strategy", "learning_rate"),
)

# For a student that has zeros.
_KEEPING_ZEROS = {
    "pruning": {"_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning"},
}


def find_rate(values: Mapping[str, Any], *, lowest: float, highest: float, steps: int) -> RangeTest:
    """Train the student of a resolved config for `steps` steps at growing learning rates.

    On the loss of the task, without teacher and quantization; zeros of the student stay.

    Raises:
        ConfigError: a config that a run would refuse, or limits that make no range.
        UserError: a task that learns from its teacher alone.
    """
    if not 0 < lowest < highest:
        raise ConfigError([f"--lowest {lowest:g} must be above 0 and below --highest {highest:g}"])
    if steps < 20:
        raise ConfigError([f"--steps {steps} must be 20 or more, to tell a slope from noise"])
    task = build_task(values, trusted=True)
    if task.learns_from_teacher:
        raise UserError(
            f"lr-find measures the loss of labels, and {task.name} learns from its teacher alone"
        )
    with tempfile.TemporaryDirectory(prefix="sparsekit-lr-find-") as scratch:
        plan = Plan.build(_config(values, lowest, highest, steps, scratch))
        return _trained(plan, RunFolder(Path(scratch)))


def _config(
    values: Mapping[str, Any], lowest: float, highest: float, steps: int, scratch: str
) -> dict[str, Any]:
    training = {name: v for name, v in values["training"].items() if name not in _LEFT_OUT}
    training |= {
        **{"output_dir": scratch, "max_steps": steps, "logging_steps": 1, "num_train_epochs": 1.0},
        **{"eval_strategy": "no", "save_strategy": "no", "logging_strategy": "steps"},
    }
    modifiers = {
        "learning_rate": {
            "_target_": "sparsekit.modifiers.rate_range.LearningRateRange",
            "lowest": lowest,
            "highest": highest,
        },
    }
    return {
        **values,
        "dataset": without_more_texts(values["dataset"]),
        "teacher": {"_target_": "sparsekit.models.teacher.NoTeacher"},
        "recipe": {"num_epochs": 1.0, "modifiers": modifiers},
        "training": training,
        "engine": {"_target_": OWN_ENGINE},
        "export": {},
        "runtime": {},
    }


def _trained(plan: Plan, run: RunFolder) -> RangeTest:
    _, data = stages.load_data(plan)
    student = load_student(plan, data)
    rows = tokenize(data, student.tokenizer, student.tokenizer_hash)
    recipe = plan.recipe
    if is_pruned(sparsity(student.model)["overall"]):
        node = plan.values["recipe"]
        recipe = Recipe.build({**node, "modifiers": node["modifiers"] | _KEEPING_ZEROS})
    recorder = LossRecorder()
    trainer = RecipeTrainer(
        student.model,
        recipe,
        run,
        data.task,
        args=plan.training,
        train_dataset=rows["train"],
        processing_class=student.tokenizer,
        callbacks=[recorder],
    )
    # Its lines would be those of every step.
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train()
    except UserError:
        # The loss became infinite, as it may at the end of the range.
        if len(recorder.losses) < 2:
            raise
    return smoothed(recorder.rates, recorder.losses)


def write(found: RangeTest, folder: Path) -> None:
    """Write `lr-find.json` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "suggested": found.suggested,
        "steepest": found.steepest,
        "lowest": found.lowest,
        "rates": found.rates,
        "losses": found.losses,
    }
    (folder / "lr-find.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
