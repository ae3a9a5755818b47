"""`engine=sparseml`: the same run folder, filled by SparseML's Trainer in its own environment."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from sparsekit.distributed import PROCESSES
from sparsekit.errors import ConfigError, UserError
from sparsekit.models.predict import predict_outputs
from sparsekit.models.teacher import label_order, live_teacher
from sparsekit.pipeline import stages
from sparsekit.pipeline.plan import Inputs, Plan
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.tracking import Tracker
from sparsekit.shape.config import KEY
from sparsekit.sparseml.engine import Report, run_worker, trainer_arguments
from sparsekit.sparseml.peer import peer_problem
from sparsekit.sparseml.recipes.mapping import NEWER
from sparsekit.sparseml.recipes.write import to_sparseml
from sparsekit.tasks.config import build_task
from sparsekit.training.record import check_steps, record_model, write_schedule

# Two implementations of the same rounding differ where a value lies between two integers.
MAX_DIFFERENCE = 0.05
# What the worker loads the student as: its labels are a number or a list of numbers for each row.
HEAD = AutoModelForSequenceClassification


@dataclass(kw_only=True)
class SparseML:
    """SparseML 1.8's Trainer, in a process of the peer environment, in float32."""

    def problems(self, recipe: Recipe, values: Mapping[str, Any]) -> list[str]:
        """What SparseML's Trainer cannot do of the resolved config `values`."""
        install = peer_problem("sparseml")
        found = [f"engine=sparseml is not installed: {install}"] if install else []
        found += _task_problems(values)
        try:
            recipe_text(recipe)
        except ConfigError as error:
            found += [f"engine=sparseml: {problem}" for problem in error.problems]
        found += [
            f"engine=sparseml: recipe.modifiers.{name} imitates layers, which starts from other "
            "projections there; remove it"
            for name, modifier in recipe.modifiers.items()
            if modifier.takes_teacher == "model"
        ]
        found += [
            f"engine=sparseml: recipe.modifiers.{name} quantizes by scheme, which SparseML cannot "
            "do on the torch of its environment; name submodules instead"
            for name in recipe.modifiers
            if any((recipe.values["modifiers"][name] or {}).get(key) for key in NEWER - {"strict"})
        ]
        found += _training_problems(values["training"])
        if isinstance(values["teacher"].get("checkpoint"), list):
            found.append("engine=sparseml takes one teacher; name one in teacher.checkpoint")
        dataset = values.get("dataset") or {}
        if dataset.get("unlabeled") or (dataset.get("augment") or {}).get("copies"):
            found.append(
                "engine=sparseml learns from the rows of the data set alone; leave out "
                "dataset.unlabeled and dataset.augment"
            )
        if dataset.get("streaming"):
            found.append("engine=sparseml trains on a table; set dataset.streaming=false")
        if (values.get("sweep") or {}).get("trial"):
            found.append("engine=sparseml cannot report to a search; remove hydra/sweeper=search")
        if PROCESSES > 1:
            found.append("engine=sparseml trains in one process; run it without torchrun")
        return found

    def train(self, plan: Plan, inputs: Inputs, run: RunFolder, tracker: Tracker) -> dict[str, Any]:
        """Train in the peer environment; write what our own engine writes.

        The weights and quantizers come back into the model that the recipe is attached to here, so
        evaluation and export are the same as after our own training. Raises UserError where the
        two quantized different modules, and RuntimeError where the same weights give other logits
        here.
        """
        student, rows = inputs.student, inputs.rows
        check_loadable(student.model)
        plan.recipe.save(run.recipe, {})
        run.sparseml_recipe.write_text(recipe_text(plan.recipe), encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix=".sparseml-", dir=run.path) as name:
            scratch = Path(name).absolute()
            job = {
                "output": str(scratch),
                "student": save_model(student.model, scratch / "student"),
                "teacher": teach(plan, inputs, scratch, tracker),
                "recipe": str(run.sparseml_recipe.absolute()),
                "rows": {s: write_rows(rows[s], scratch) for s in ("train", "validation")},
                "arguments": trainer_arguments(plan.values["training"]),
            }
            # After the student is saved: it changes the model, and finds what does not fit it.
            plan.recipe.attach(student.model)
            (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
            recorder = Recorder(plan, inputs, run, tracker)
            run_worker(scratch / "job.json", run.sparseml_log, recorder)
            load_state(plan, student.model, scratch / "state.safetensors")
            theirs = np.load(scratch / "validation.npy")
        difference = check_logits(inputs, theirs)
        plan.recipe.detach(student.model)
        student.model.save_pretrained(run.model)
        student.tokenizer.save_pretrained(run.model)
        result = recorder.result
        measured = {
            "seconds": result["train_runtime"],
            "steps": result["steps"],
            "samples_per_second": result["train_samples_per_second"],
        }
        engine = {"version": result["sparseml"], "max_abs_diff": difference}
        results = record_model(plan.recipe, student.model, run, plan.training, measured, "fp32")
        return {**results, "sparseml": engine}


def _task_problems(values: Mapping[str, Any]) -> list[str]:
    try:
        task = build_task(values, trusted=True)
    except ConfigError:
        return []  # It is reported where the plan builds the task.
    if task.head is HEAD:
        return []
    return [
        f"engine=sparseml trains models for sequence classification, not for {task.name}; set "
        "engine=sparsekit"
    ]


def check_loadable(model: PreTrainedModel) -> None:
    """Raise UserError for sizes that the plain transformers of the peer environment cannot load."""
    if getattr(model.config, KEY, None):
        raise UserError(
            "engine=sparseml loads models whose layers are alike, with heads that are together as "
            "wide as the hidden states, and this student was shrunk to others; shrink neurons or "
            "whole layers alone, or set engine=sparsekit"
        )


def _training_problems(training: Mapping[str, Any]) -> list[str]:
    """The given arguments that SparseML's Trainer has no equivalent of."""
    found = []
    if training.get("max_steps", -1) > 0:
        found.append(
            f"engine=sparseml counts epochs only, but training.max_steps is "
            f"{training['max_steps']}; set training.max_steps=-1 and recipe.num_epochs"
        )
    if training.get("resume_from_checkpoint"):
        found.append(
            "engine=sparseml writes no checkpoints; set training.resume_from_checkpoint=null"
        )
    if training.get("precision", "auto") not in ("auto", "fp32"):
        found.append(
            f"engine=sparseml trains in fp32, but training.precision is "
            f"{training['precision']}; set training.precision=fp32"
        )
    if training.get("sparse_products", "auto") == "on":
        found.append(
            "engine=sparseml multiplies zeros too, although training.sparse_products is on; set "
            "training.sparse_products=auto"
        )
    for key in ("load_best_model_at_end", "early_stopping_patience", "class_weights"):
        if training.get(key):
            found.append(
                f"engine=sparseml knows no training.{key}, which is {training[key]}; leave it out"
            )
    if training.get("tokens_per_batch") is not None:
        found.append(
            "engine=sparseml takes batches of rows, but training.tokens_per_batch is "
            f"{training['tokens_per_batch']}; set it to null"
        )
    return found


def recipe_text(recipe: Recipe) -> str:
    """The resolved recipe as SparseML's YAML; raises ConfigError for what it cannot express.

    A distillation of weight 0 is left out: SparseML would require its teacher.
    """
    modifiers = {
        name: modifier
        for name, modifier in recipe.modifiers.items()
        if modifier.takes_teacher is None or modifier.needs_teacher
    }
    return to_sparseml(recipe.values, recipe.values, modifiers)


def save_model(model: PreTrainedModel, folder: Path) -> str:
    """Save the model in both formats that SparseML reads, one to load and one to reload."""
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return str(folder)


def write_rows(rows: Dataset, folder: Path) -> str:
    """Write the tokenized rows as Parquet without the metadata of a newer `datasets`."""
    file = folder / f"{len(list(folder.glob('*.parquet')))}.parquet"
    pq.write_table(pa.table({name: list(rows[name]) for name in rows.column_names}), file)
    return str(file)


def teach(plan: Plan, inputs: Inputs, scratch: Path, tracker: Tracker) -> str | None:
    """The teacher's folder for SparseML, which runs it at every step; records its scores.

    Raises UserError for a teacher with another vocabulary or another order of labels.
    """
    if not plan.recipe.uses_teacher("logits"):
        return None
    folders, names = inputs.teacher_folders(), inputs.data.label_names
    for folder in folders:
        order = label_order(folder, inputs.data.task, str(folder), names)
        if order != list(range(len(names))):
            raise UserError(
                f"the teacher in {folder} has its labels in another order than the data "
                f"({', '.join(names)}), which SparseML does not see; use engine=sparsekit"
            )
    teacher = live_teacher(folders, inputs.student, inputs.data)
    rows, task = inputs.rows["validation"], inputs.data.task
    device = plan.training.device
    outputs = predict_outputs(teacher, task, rows, inputs.student.tokenizer, device)
    tracker.record({"teacher": {"validation": stages.score(inputs, "validation", outputs)}})
    return save_model(teacher, scratch / "teacher")


class Recorder:
    """Writes SparseML's reports as they come: schedule, events, scores of its evaluations."""

    def __init__(self, plan: Plan, inputs: Inputs, run: RunFolder, tracker: Tracker) -> None:
        self._plan, self._inputs = plan, inputs
        self._run, self._tracker = run, tracker
        self._scores: dict[str, float] = {}
        self.result: dict[str, Any] = {}

    def __call__(self, report: Report) -> None:
        match report:
            case {"steps": steps}:
                write_schedule(self._plan.recipe, steps, self._run)
                if self._plan.export is not None:
                    check_steps(self._plan.recipe, steps)
            case {"logits": rows}:
                logits = np.array(rows, np.float32)
                scores = stages.score(self._inputs, "validation", {"logits": logits})
                self._scores = {f"eval_{name}": value for name, value in scores.items()}
            case {"event": event, "step": step}:
                # The evaluation itself is logged right after its logits.
                self._tracker.log({**event, **self._scores}, step=step)
                self._scores = {}
            case {"result": result}:
                self.result = result


def load_state(plan: Plan, model: PreTrainedModel, file: Path) -> None:
    """Load what SparseML trained into `model`, the recipe attached, all of its quantizers on."""
    state = load_file(file)
    known = model.state_dict()
    # Not the ranges, which the scales already contain, nor our own training's scores.
    wanted = {name for name in known if name.endswith((".weight", ".bias", ".scale"))}
    missing = sorted(wanted - state.keys())
    foreign = sorted(state.keys() - known.keys())
    if missing or foreign:
        raise ConfigError(
            [
                f"SparseML quantized other modules than sparsekit does: it has no "
                f"{', '.join(missing[:4]) or 'missing ones'}, and also has "
                f"{', '.join(foreign[:4]) or 'nothing'}; write the recipe's quantization with "
                "submodules that name what both have"
            ]
        )
    model.load_state_dict(state, strict=False)
    # Only now, since pruning reads its masks from the weights.
    plan.recipe.update(plan.recipe.num_epochs)
    model.eval()


def check_logits(inputs: Inputs, theirs: np.ndarray) -> float:
    """The largest difference between our logits and SparseML's for the same weights."""
    student, rows = inputs.student, inputs.rows["validation"]
    outputs = predict_outputs(student.model, inputs.data.task, rows, student.tokenizer)
    ours = np.asarray(outputs["logits"])
    difference = np.abs(ours - theirs)
    limit = MAX_DIFFERENCE * float(theirs.std())
    if not difference.mean() <= limit:
        raise RuntimeError(
            f"the same weights give logits {difference.mean():.3g} apart on average in SparseML "
            f"and here, more than {limit:.3g}"
        )
    return float(difference.max())
