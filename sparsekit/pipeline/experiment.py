"""The main path: data, student, teacher, training, evaluation, export, timing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import set_seed

from sparsekit.benchmark.requests import benchmark
from sparsekit.cache import cached, content_hash
from sparsekit.config.build import build
from sparsekit.data.datasets import TextData, tokenize
from sparsekit.distributed import FIRST_PROCESS, PROCESSES
from sparsekit.errors import UserError
from sparsekit.export.hub import push
from sparsekit.export.onnx import export
from sparsekit.models.hub import fetch
from sparsekit.models.loading import weights_hash
from sparsekit.models.teacher import Finetuned
from sparsekit.pipeline import stages
from sparsekit.pipeline.engines import sparseml_stage
from sparsekit.pipeline.plan import Plan
from sparsekit.runs.tracking import Tracker, TrackingConfig, track
from sparsekit.system import environment


def experiment(
    values: Mapping[str, Any], names: Mapping[str, str], folder: Path, tracker: Tracker
) -> None:
    """The stages in order; each records its part of the summary as soon as it is known."""
    tracker.record(stages.identity(values, names, folder) | {"environment": environment()})
    plan = Plan.build(dict(values))
    data = stages.load_data(plan)
    set_seed(plan.training.seed)
    student = plan.student.load(data.label_names, data.max_length)
    rows = tokenize(data, student.tokenizer, student.tokenizer_hash)

    def finetune() -> Path:
        return finetuned_teacher(plan, values, data)

    if plan.engine is None:
        rows, taught = stages.teach(plan, student, data, rows, finetune)
        tracker.record(taught)
        plan.recipe.attach(student.model)
        trainer = stages.make_trainer(plan, student, rows, folder, tracker)
        if trial := (values.get("sweep") or {}).get("trial"):
            trainer.add_callback(build(trial, "sweep.trial"))
        trained = stages.train(plan, student, trainer, folder)
    else:
        trained = sparseml_stage.train(
            plan, values["training"], student, data, rows, folder, tracker, finetune
        )
    if not FIRST_PROCESS:
        return
    tracker.record(trained)
    tracker.record(stages.evaluate(plan, student, data, rows, folder))
    if plan.export is not None:
        tracker.record({"export": export(folder, plan.export)})
        if plan.runtime is not None:
            tracker.record({"runtime": benchmark(folder, plan.runtime)})
        if plan.export.push_to_hub is not None:
            # Last: a Hub that cannot be reached takes nothing from the summary.
            tracker.record({"pushed": push(folder / "deployment", plan.export.push_to_hub)})


def finetuned_teacher(plan: Plan, values: Mapping[str, Any], data: TextData) -> Path:
    """The folder of `teacher=finetuned`: its own run, made once for this base, recipe and data."""
    teacher = plan.teacher
    assert isinstance(teacher, Finetuned)
    changes = {"num_train_epochs": teacher.recipe["num_epochs"], "seed": teacher.seed}
    training = stages.without_saving(values["training"], **changes)
    identity = {**training, "output_dir": None, "recipe": teacher.recipe}
    key = content_hash(
        [weights_hash(fetch(teacher.base)), json.dumps(identity, sort_keys=True)]
        + [data.fingerprint(split) for split in data.splits]
    )

    def make(folder: Path) -> None:
        if PROCESSES > 1:
            # One process would train it while the others wait for each other's gradients.
            raise UserError(
                "teacher=finetuned is trained by one process: run this command once without "
                "torchrun, and stop it (Ctrl-C) when the student's own schedule is printed; the "
                "teacher is kept, and found by the same command from then on"
            )
        child = {
            **values,
            "student": {"_target_": "sparsekit.models.loading.Student", "checkpoint": teacher.base},
            "teacher": {"_target_": "sparsekit.models.teacher.NoTeacher"},
            "recipe": teacher.recipe,
            "training": training | {"output_dir": str(folder / "checkpoints")},
            "engine": {},
            "export": {},
            "runtime": {},
            "seed": teacher.seed,
        }
        off = TrackingConfig(mode="disabled")
        with track(off, folder, child, [], None) as tracker:
            experiment(child, {"teacher": "itself"}, folder, tracker)

    return cached("teachers", key, make) / "model"
