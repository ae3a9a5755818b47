"""The training stage of `engine=sparseml`: the same run folder, filled by SparseML's Trainer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import PreTrainedModel

from sparsekit import metrics
from sparsekit.data.datasets import TextData
from sparsekit.errors import ConfigError, UserError
from sparsekit.models.loading import Classifier
from sparsekit.models.predict import predict_logits
from sparsekit.models.teacher import label_order, live_teacher
from sparsekit.pipeline import stages
from sparsekit.pipeline.engines.sparseml_engine import (
    Report,
    recipe_text,
    run_worker,
    trainer_arguments,
)
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.stages import Rows
from sparsekit.runs.tracking import Tracker

# Two implementations of the same rounding differ where a value lies between two integers.
MAX_DIFFERENCE = 0.05


def train(
    plan: Plan,
    training: dict[str, Any],
    student: Classifier,
    data: TextData,
    rows: Rows,
    folder: Path,
    tracker: Tracker,
    finetune: Callable[[], Path],
) -> dict[str, Any]:
    """Train in the peer environment; write what `stages.train` writes, return what it returns.

    The weights and quantizers come back into the model that the recipe is attached to here, so
    evaluation and export are the same as after our own training. Raises UserError where the two
    quantized different modules, and RuntimeError where the same weights give other logits here.
    """
    plan.recipe.save(folder / "recipe.yaml", {})
    (folder / "recipe.sparseml.yaml").write_text(recipe_text(plan.recipe))
    with tempfile.TemporaryDirectory(prefix=".sparseml-", dir=folder) as name:
        scratch = Path(name).absolute()
        job = {
            "output": str(scratch),
            "student": save_model(student.model, scratch / "student"),
            "teacher": teach(plan, student, data, rows, scratch, tracker, finetune),
            "recipe": str((folder / "recipe.sparseml.yaml").absolute()),
            "rows": {s: write_rows(rows[s], scratch) for s in ("train", "validation")},
            "arguments": trainer_arguments(training),
        }
        # After the student is saved: it changes the model, and finds what does not fit it.
        plan.recipe.attach(student.model)
        (scratch / "job.json").write_text(json.dumps(job))
        recorder = Recorder(plan, np.array(rows["validation"]["labels"]), folder, tracker)
        run_worker(scratch / "job.json", folder / "sparseml.log", recorder)
        load_state(plan, student.model, scratch / "state.safetensors")
        theirs = np.load(scratch / "validation.npy")
    difference = check_logits(student, rows["validation"], theirs)
    plan.recipe.detach(student.model)
    student.model.save_pretrained(folder / "model")
    student.tokenizer.save_pretrained(folder / "model")
    result = recorder.result
    measured = {
        "seconds": result["train_runtime"],
        "steps": result["steps"],
        "samples_per_second": result["train_samples_per_second"],
    }
    engine = {"version": result["sparseml"], "max_abs_diff": difference}
    return {**stages.trained(plan, student, folder, measured, "fp32"), "sparseml": engine}


def save_model(model: PreTrainedModel, folder: Path) -> str:
    """Save it in both forms that SparseML reads: one to load, one to load again from."""
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return str(folder)


def write_rows(rows: Dataset, folder: Path) -> str:
    """Write the tokenized rows as a Parquet file without the records of a newer `datasets`."""
    file = folder / f"{len(list(folder.glob('*.parquet')))}.parquet"
    pq.write_table(pa.table({name: list(rows[name]) for name in rows.column_names}), file)
    return str(file)


def teach(
    plan: Plan,
    student: Classifier,
    data: TextData,
    rows: Rows,
    scratch: Path,
    tracker: Tracker,
    finetune: Callable[[], Path],
) -> str | None:
    """The teacher's folder for SparseML, which runs it at every step; records its scores.

    Raises UserError for a teacher of another vocabulary or with another order of labels.
    """
    if not plan.recipe.needs_teacher("logits"):
        return None
    folders = stages.teacher_folders(plan, data, finetune)
    for folder in folders:
        if label_order(folder, str(folder), data.label_names) != list(range(len(data.label_names))):
            raise UserError(
                f"the teacher in {folder} has its labels in another order than the data "
                f"({', '.join(data.label_names)}), which SparseML does not see; use "
                "engine=sparsekit"
            )
    teacher = live_teacher(folders, student, data)
    logits = predict_logits(teacher, rows["validation"], student.tokenizer)
    labels = np.array(rows["validation"]["labels"])
    scores = metrics.compute(plan.dataset.metrics, logits, labels)
    tracker.record({"teacher": {"validation": scores}})
    return save_model(teacher, scratch / "teacher")


class Recorder:
    """Writes SparseML's reports as they come: schedule, events, scores of its evaluations."""

    def __init__(self, plan: Plan, labels: np.ndarray, folder: Path, tracker: Tracker) -> None:
        self._plan, self._labels = plan, labels
        self._folder, self._tracker = folder, tracker
        self._scores: dict[str, float] = {}
        self.result: dict[str, Any] = {}

    def __call__(self, report: Report) -> None:
        match report:
            case {"steps": steps}:
                stages.write_schedule(self._plan, steps, self._folder)
            case {"logits": logits}:
                found = metrics.compute(
                    self._plan.dataset.metrics, np.array(logits, np.float32), self._labels
                )
                self._scores = {f"eval_{name}": value for name, value in found.items()}
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
    # Ranges are what scales are computed from; scores and projections are our own training's.
    wanted = {name for name in known if name.endswith((".weight", ".bias", ".scale"))}
    lacking = sorted(wanted - state.keys())
    foreign = sorted(state.keys() - known.keys())
    if lacking or foreign:
        raise ConfigError(
            [
                f"SparseML quantized other modules than sparsekit does: it lacks "
                f"{', '.join(lacking[:4]) or 'nothing'}, and has besides "
                f"{', '.join(foreign[:4]) or 'nothing'}; write the recipe's quantization with "
                "submodules that name what both have"
            ]
        )
    model.load_state_dict(state, strict=False)
    # Only now: pruning takes its masks from the weights that it finds.
    plan.recipe.update(plan.recipe.num_epochs)
    model.eval()


def check_logits(student: Classifier, rows: Dataset, theirs: np.ndarray) -> float:
    """How far our logits are from SparseML's for the same weights, at most."""
    ours = predict_logits(student.model, rows, student.tokenizer)
    difference = np.abs(ours - theirs)
    limit = MAX_DIFFERENCE * float(theirs.std())
    if not difference.mean() <= limit:
        raise RuntimeError(
            f"the same weights give logits {difference.mean():.3g} apart on average in SparseML "
            f"and here, more than {limit:.3g}"
        )
    return float(difference.max())
