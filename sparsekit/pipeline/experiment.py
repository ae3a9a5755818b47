"""The main path: data, student, teacher, training, evaluation, export, timing."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparsekit import metrics
from sparsekit.benchmark.requests import benchmark
from sparsekit.cache import cached, content_hash
from sparsekit.config.sources import outside_code
from sparsekit.distributed import FIRST_PROCESS, PROCESSES
from sparsekit.errors import UserError
from sparsekit.metrics.table import as_text
from sparsekit.models.contents import models_hash, weights_hash
from sparsekit.models.hub import fetch
from sparsekit.models.loading import LoadedModel, positions_of
from sparsekit.models.teacher import Finetuned, Self
from sparsekit.onnx.export import ExportConfig
from sparsekit.onnx.hub import push
from sparsekit.onnx.preflight import check_exportable
from sparsekit.pipeline import stages
from sparsekit.pipeline.data_figures import data_figures, record_figures, show_figures
from sparsekit.pipeline.gating import gated_export, record_baseline, report_prospects
from sparsekit.pipeline.plan import OWN_ENGINE, Inputs, Plan
from sparsekit.pipeline.self_teaching import own_teacher
from sparsekit.pipeline.shaping import use_latency_tables, with_measured_latency
from sparsekit.pipeline.shrinking import load_student
from sparsekit.pipeline.streamed import streamed_rows
from sparsekit.pipeline.taught_texts import with_more_texts, without_more_texts
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.tracking import Tracker, TrackingConfig, track
from sparsekit.system import environment
from sparsekit.tasks.base import Data
from sparsekit.tasks.config import task_node
from sparsekit.tasks.tokens import tokenize

log = logging.getLogger(__name__)

# A teacher trains for all its epochs, and keeps no checkpoints to choose from.
CHOOSES_CHECKPOINTS = (
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    *("early_stopping_patience", "early_stopping_threshold"),
)


def experiment(
    plan: Plan,
    names: Mapping[str, str],
    run: RunFolder,
    tracker: Tracker,
    *,
    show_data: bool = True,
) -> None:
    """The stages in order; each records its part of the summary as soon as it is known."""
    run.write_config(plan.values)
    known = stages.identity(plan.values, names, plan.files_hash(), models_hash(plan.values))
    tracker.record(known | {"environment": environment()})
    metrics.check_cache()
    stages.check_architecture(plan)
    inputs = _inputs(plan, run, show_data)
    if FIRST_PROCESS:
        report_prospects(plan.export, inputs.data)
    record_baseline(plan.export, inputs.teacher_folders, plan.student, tracker.record)

    trained = plan.engine.train(plan, inputs, run, tracker)
    if not FIRST_PROCESS:
        return
    tracker.record(trained)
    tracker.record(stages.evaluate(inputs, run))
    if plan.export is not None:
        _deploy(plan, plan.export, run, tracker)


def _inputs(plan: Plan, run: RunFolder, show_data: bool) -> Inputs:
    """The data, whose figures are recorded, and the student; teachers are fetched when needed."""
    raw, data = stages.load_data(plan)
    student = load_student(plan, data)
    teachers = _teachers(plan, data, student)
    if plan.export is not None and FIRST_PROCESS:
        check_exportable(student.model, data.task, plan.export.form)
    use_latency_tables(plan.recipe, plan.runtime, student.model, data.task, run)
    rows = tokenize(data, student.tokenizer, student.tokenizer_hash)
    if FIRST_PROCESS:
        figures = data_figures(
            raw, data, rows, student.tokenizer, positions_of(student.model.config)
        )
        if plan.streaming.streaming:
            figures["splits"]["train"]["streamed"] = True
        record_figures(figures, run)
        if show_data:
            show_figures(figures)
    taught = with_more_texts(data, plan.more_texts, plan.dataset)
    labelled_rows = None
    if taught is not data:
        labelled_rows = rows["train"]
        rows = tokenize(taught, student.tokenizer, student.tokenizer_hash)
    stream = None
    if plan.streaming.streaming:
        stream = streamed_rows(plan, raw, data, student, rows)
    return Inputs(
        student=student,
        data=taught,
        rows=rows,
        teacher_folders=teachers,
        stream=stream,
        labelled_rows=labelled_rows,
    )


def _teachers(plan: Plan, data: Data, student: LoadedModel) -> Callable[[], list[Path]]:
    """What fetches or fine-tunes the teachers; raises UserError where it cannot be the student."""
    if isinstance(plan.teacher, Self):
        return functools.partial(list, own_teacher(plan, student))
    finetune = functools.partial(finetuned_teacher, plan, data)
    return functools.partial(plan.teacher.folders, data.task, data.label_names, finetune)


def _deploy(plan: Plan, config: ExportConfig, run: RunFolder, tracker: Tracker) -> None:
    """Export the trained model, time it, and push it to the Hub where `config` names one."""
    tracker.save()
    against = tracker.recorded("gate").get("against")
    gated_export(run, config, against, tracker.record)
    if plan.runtime is not None:
        tracker.save()
        tracker.record({"runtime": benchmark(run.path, plan.runtime)})
        if shape := tracker.recorded("shape"):
            tracker.record({"shape": with_measured_latency(run, shape)})
    if config.push_to_hub is not None:
        tracker.save()
        # Last, so that an unreachable Hub cannot affect the summary.
        tracker.record({"pushed": push(run.deployment, config.push_to_hub)})


def teacher_arguments(training: Mapping[str, Any], teacher: Finetuned) -> dict[str, Any]:
    """The student's training arguments as its fine-tuned teacher needs them.

    Without those that the teacher's recipe sets itself: a student's recipe may leave them open.
    """
    replaced = Recipe.build(teacher.recipe, trusted=True).replaced_arguments()
    left_out = {*replaced, *CHOOSES_CHECKPOINTS, "resume_despite_changes"}
    return {
        **{name: value for name, value in training.items() if name not in left_out},
        # A teacher's checkpoints are never resumed.
        "save_strategy": "no",
        "resume_from_checkpoint": None,
        "num_train_epochs": teacher.recipe["num_epochs"],
        "seed": teacher.seed,
    }


def finetuned_teacher(plan: Plan, data: Data, teacher: Finetuned) -> Path:
    """The folder of `teacher=finetuned`: its own run, made once for this base, recipe and data."""
    training = teacher_arguments(plan.values["training"], teacher)
    identity = {
        **training,
        "output_dir": None,
        "recipe": teacher.recipe,
        # Its max_length decides what the teacher reads of the rows; its metrics change nothing.
        "task": {**task_node(data.task), "metrics": None},
    }
    modifiers = Recipe.build(teacher.recipe, trusted=True).modifiers.values()
    key = content_hash(
        [
            weights_hash(fetch(teacher.base, key="teacher.base")),
            json.dumps(identity, sort_keys=True),
            *outside_code(type(each) for each in [data.task, *modifiers]),
        ]
        + [data.fingerprint(split) for split in data.splits]
    )
    make = functools.partial(_train_teacher, plan, teacher, training)
    return RunFolder(cached("teachers", key, make)).model


def _train_teacher(
    plan: Plan, teacher: Finetuned, training: Mapping[str, Any], folder: Path
) -> None:
    """Fine-tune the teacher of `plan`'s run, with `training` as its arguments, in `folder`."""
    if PROCESSES > 1:
        # One process would train it while the others wait for each other's gradients.
        raise UserError(
            "teacher=finetuned is trained by one process: run this command once without "
            "torchrun, and stop it (Ctrl-C) when the student's own schedule is printed; the "
            "teacher is kept, and found by the same command from then on"
        )
    log.info(
        "teacher=finetuned: first %s is fine-tuned on these data, once (epochs: %g); the "
        "schedule that follows is the teacher's, the student's comes after it",
        teacher.base if isinstance(teacher.base, str) else teacher.base["_target_"],
        teacher.recipe["num_epochs"],
    )
    run = RunFolder(folder)
    child = {
        **plan.values,
        "dataset": without_more_texts(plan.values["dataset"]),
        "student": {"_target_": "sparsekit.models.loading.Student", "checkpoint": teacher.base},
        "teacher": {"_target_": "sparsekit.models.teacher.NoTeacher"},
        "recipe": teacher.recipe,
        "training": {**training, "output_dir": str(run.checkpoints)},
        "engine": {"_target_": OWN_ENGINE},
        "export": {},
        "runtime": {},
        "seed": teacher.seed,
    }
    with track(TrackingConfig(mode="disabled"), run, child, [], None) as tracker:
        dense = Plan.build(child)
        experiment(dense, {"teacher": "itself"}, run, tracker, show_data=False)
    scores = run.summary["metrics"]["validation"]
    log.info(
        "the teacher is ready (%s on validation) and kept for later runs",
        ", ".join(f"{name} {as_text(name, value)}" for name, value in scores.items()),
    )
