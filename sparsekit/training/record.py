"""What training leaves in a run folder, whoever started it: schedule, recipe, scores."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from typing import Any

from datasets import Dataset
from safetensors.torch import load_file
from torch import nn
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from sparsekit.data.labels import label_names
from sparsekit.errors import ConfigError
from sparsekit.models.loading import LoadedModel
from sparsekit.models.predict import predict_outputs
from sparsekit.models.pruning import sparsity
from sparsekit.models.quantizers import separate_quantizers
from sparsekit.modifiers.quantization.fake_quantize import unseen
from sparsekit.recipe import schedule
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.report import show
from sparsekit.shape.shrink import sizes_before
from sparsekit.shape.sizes import shape_record
from sparsekit.system import versions
from sparsekit.tasks.base import Task
from sparsekit.training.callbacks import assert_masks

log = logging.getLogger(__name__)


class ScheduleCallback(TrainerCallback):
    """Prints and saves the recipe in optimizer steps, once the Trainer knows how many there are."""

    def __init__(self, recipe: Recipe, run: RunFolder, exported: bool) -> None:
        self._recipe, self._run, self._exported = recipe, run, exported

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the schedule; raises ConfigError where it quantizes nothing that is exported."""
        if state.is_world_process_zero:
            write_schedule(self._recipe, state.max_steps, self._run)
        if self._exported:
            check_steps(self._recipe, state.max_steps)


def write_schedule(recipe: Recipe, total_steps: int, run: RunFolder) -> None:
    """Print the recipe in optimizer steps, and write it to `schedule.json`."""
    show(schedule.table(recipe, total_steps), stderr=True)
    rows = schedule.windows(recipe, total_steps)
    text = json.dumps({"total_steps": total_steps, "modifiers": rows}, indent=2)
    run.schedule.write_text(text + "\n", encoding="utf-8")


def check_steps(recipe: Recipe, total_steps: int) -> None:
    """Raise ConfigError where no step would quantize what is then exported as quantized."""
    if problems := recipe.step_problems(total_steps):
        raise ConfigError(problems)


def record_model(
    recipe: Recipe,
    model: nn.Module,
    run: RunFolder,
    args: TrainingArguments,
    measured: dict[str, Any],
    precision: str,
) -> dict[str, Any]:
    """Save the recipe in `model/` and check the masks of its weights.

    `measured` is `summary.train`. Returns this, the summary's `sparsity` and `quantization`, and
    what the modifiers add to it; draws the shape of a model that became smaller.
    """
    recipe.save(
        run.model_recipe,
        {
            "per_device_train_batch_size": args.per_device_train_batch_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "processes": args.world_size,
            "precision": precision,
            "seed": args.seed,
            # Of the weights that are saved, which may be those of an earlier checkpoint.
            "steps": measured.get("best_step") or measured["steps"],
            # Not those of the data set: question answering reads windows, and a teacher more texts.
            "rows": measured.get("rows"),
            "versions": versions(),
        },
    )
    separate_quantizers(run.model)
    assert_masks(recipe, load_file(run.weights), f"in {run.model}")
    if unobserved := unseen(model):
        log.warning(
            "%d quantizers observed no values and round most weights to zero, among them %s: "
            "training ended before quantization started; train more steps, or start earlier "
            "(recipe.qat_epochs)",
            len(unobserved),
            unobserved[0],
        )
    left = {name for name, _ in model.named_modules()}
    return {
        "train": measured,
        "sparsity": sparsity(model),
        # Those of removed heads are gone.
        "quantization": {"modules": [name for name in recipe.quantized_modules if name in left]},
        **_results(recipe, model, run),
    }


def _results(recipe: Recipe, model: nn.Module, run: RunFolder) -> dict[str, Any]:
    """What the modifiers add to the summary, and the shape of a model that became smaller."""
    results = dict(recipe.results(model))
    assert isinstance(model, PreTrainedModel)
    if "shape" not in results and (before := sizes_before(model)):
        results["shape"] = shape_record(model, before)
    if (shape := results.get("shape")) and find_spec("matplotlib"):
        from sparsekit.shape.picture import draw

        draw(shape, run.shape_picture)
    return results


def record_evaluation(
    task: Task,
    student: LoadedModel,
    rows: Dataset,
    texts: Dataset,
    split: str,
    run: RunFolder,
) -> dict[str, float]:
    """Score a split with the model as it ships, quantizers on; return the metrics.

    Writes `evaluation/<split>.parquet`, the columns of `texts` (the split in the task's form) with
    the outputs of each row, and the task's report.
    """
    run.evaluations.mkdir(exist_ok=True)
    outputs, labels = (
        predict_outputs(student.model, task, rows, student.tokenizer),
        rows["labels"][:],
    )
    names = label_names(student.model.config)
    task.write_report(run.evaluations, split, outputs, labels, names)
    if "text" in texts.column_names:
        task.write_mistakes(run.evaluations, split, texts, outputs, labels, names)
    task.evaluation_table(texts, rows, outputs).to_parquet(str(run.evaluation(split)))
    return task.score(outputs, labels, names)
