"""`engine=sparsekit`: our own Trainer, in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PrinterCallback, ProgressCallback

from sparsekit.config.build import build
from sparsekit.models.contents import models_hash
from sparsekit.models.kept_outputs import add_outputs
from sparsekit.models.teacher import averaged_outputs, live_teacher, row_teacher
from sparsekit.pipeline import stages
from sparsekit.pipeline.plan import Inputs, Plan, Rows
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.progress import progress
from sparsekit.runs.tracking import Tracker
from sparsekit.runs.tracking_callback import TrackerCallback
from sparsekit.training.cpu.allocator import reuse_freed_memory
from sparsekit.training.cpu.precision import matmul_precision
from sparsekit.training.recipe_trainer import RecipeTrainer
from sparsekit.training.record import ScheduleCallback
from sparsekit.training.settings import check_unchanged, trained_by
from sparsekit.training.stopping import StopAfterCheckpoint


@dataclass(kw_only=True)
class SparsekitEngine:
    """Our own Trainer: every recipe, every precision, on one process or several."""

    def problems(self, recipe: Recipe, values: Mapping[str, Any]) -> list[str]:
        """Nothing: the recipe and the arguments check themselves."""
        return []

    def train(self, plan: Plan, inputs: Inputs, run: RunFolder, tracker: Tracker) -> dict[str, Any]:
        """Train, save `model/` with its recipe, and check the masks in the saved file."""
        trainer = make_trainer(plan, inputs, teach(plan, inputs, tracker), run, tracker)
        stream, files = inputs.stream, plan.files_hash()
        rows = inputs.data.fingerprint("train") if stream is None else stream.fingerprint
        trainer.trained_by = trained_by(plan.values, rows, files, models_hash(plan.values))
        resumed, allow = plan.training.resume_from_checkpoint, plan.training.resume_despite_changes
        check_unchanged(resumed, trainer.trained_by, allow)
        plan.recipe.save(run.recipe, {})
        stopping = StopAfterCheckpoint()
        trainer.add_callback(stopping)
        with stopping.listening():
            trainer.train(resume_from_checkpoint=resumed)
        trainer.save_model()
        trainer.save_state()
        return trainer.results


def teach(plan: Plan, inputs: Inputs, tracker: Tracker) -> Rows:
    """The rows, with the teacher's outputs for training; records the teacher's scores.

    Layers that are to be imitated get the teacher itself. A recipe that gives the teacher no weight
    does not run it. A task whose labels are the teacher's outputs gets them in `inputs.rows`. Rows
    of a stream get them as they are read.
    """
    rows, student, data = inputs.rows, inputs.student, inputs.data
    distilled = plan.recipe.uses_teacher("logits")
    if not distilled and not plan.recipe.uses_teacher("model"):
        return rows
    folders = inputs.teacher_folders()
    live = distilled and inputs.stream is not None
    splits = ["validation", "train"] if distilled and not live else ["validation"]
    if data.task.learns_from_teacher:
        splits = list(rows)
    device = plan.training.device
    with reuse_freed_memory(), matmul_precision(plan.training.matmul_precision):
        outputs = averaged_outputs(folders, student, data, splits, device)
    plan.recipe.use_teacher(lambda: live_teacher(folders, student, data))
    for split in splits:
        rows[split] = data.task.with_teacher(rows[split], outputs[split])
    scores = stages.score(inputs, "validation", outputs["validation"])
    tracker.record({"teacher": {"validation": scores}})
    if inputs.stream is not None and distilled:
        inputs.stream.teach = row_teacher(folders, student, data, device)
        return rows
    return {**rows, "train": add_outputs(rows["train"], outputs["train"])} if distilled else rows


def make_trainer(
    plan: Plan, inputs: Inputs, rows: Rows, run: RunFolder, tracker: Tracker
) -> RecipeTrainer:
    """The trainer, with the schedule printed and everything it logs kept in the run folder."""
    trainer = RecipeTrainer(
        inputs.student.model,
        plan.recipe,
        run,
        inputs.data.task,
        args=plan.training,
        train_dataset=rows["train"] if inputs.stream is None else inputs.stream,
        eval_dataset=rows["validation"],
        processing_class=inputs.student.tokenizer,
        labelled_rows=inputs.labelled_rows,
        callbacks=[
            ScheduleCallback(plan.recipe, run, exported=plan.export is not None),
            TrackerCallback(tracker),
        ],
    )
    # The Trainer's own: a bar, or dictionaries where that is turned off.
    for own in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(own)
    trainer.add_callback(progress(bar=not plan.training.disable_tqdm))
    if trial := (plan.values.get("sweep") or {}).get("trial"):
        trainer.add_callback(build(trial, "sweep.trial", trusted=True))
    return trainer
