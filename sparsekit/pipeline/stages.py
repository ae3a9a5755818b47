"""The stages of a run before its export: each writes its part of the run folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datasets import DatasetDict

from sparsekit.config.identity import identity_hash
from sparsekit.data.labels import are_numbers, id2label, is_generic
from sparsekit.data.selection import ReadRows
from sparsekit.errors import UserError
from sparsekit.models.teacher import Self
from sparsekit.onnx.preflight import export_problem
from sparsekit.pipeline.plan import Inputs, Plan
from sparsekit.pipeline.streamed import load_first_block
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.tasks.base import Outputs
from sparsekit.tasks.base import Data
from sparsekit.tasks.config import tuned
from sparsekit.training.record import record_evaluation

log = logging.getLogger(__name__)


def identity(
    values: Mapping[str, Any],
    names: Mapping[str, str],
    data_files: str | None = None,
    models: str | None = None,
) -> dict[str, Any]:
    """What distinguishes this run from others: group choices `names`, config hash and seed.

    data_files, models: the hashes of the data set's files and of local models, which the config
        names by path alone.
    """
    contents = {"data_files": data_files, "models": models}
    known = {name: content for name, content in contents.items() if content is not None}
    return {
        "config": {**names, "hash": identity_hash(values), **known},
        "seed": values["seed"],
    }


def load_data(plan: Plan) -> tuple[DatasetDict, Data]:
    """The rows as they were read, and the same rows in the form of their task.

    Labels are in the student's order where the student names the same labels. Of a stream `train`
    is the first block. Classes that the data only number keep the names that they have in a student
    that teaches itself.
    """
    labels = id2label(plan.student.config())
    if plan.streaming.streaming:
        return load_first_block(plan, labels)
    raw = plan.dataset.raw(plan.task.columns())
    data = plan.task.with_model_labels(plan.task.load(ReadRows(raw)), labels)
    numbered = are_numbers(data.label_names) and len(data.label_names) == len(labels)
    if numbered and isinstance(plan.teacher, Self) and not is_generic(labels):
        # What it answers is right for these rows, or it could not teach them.
        names = [labels[index] for index in sorted(labels)]
        log.info(
            "the labels 0 to %d are those of the student: %s", len(names) - 1, ", ".join(names)
        )
        data = replace(data, label_names=names)
    return raw, data


def check_architecture(plan: Plan) -> None:
    """Refuse a student that cannot be exported, by its `config.json`; raises UserError."""
    problem = None if plan.export is None else export_problem(plan.student.config())
    if problem is not None:
        raise UserError(problem)


def score(inputs: Inputs, split: str, outputs: Outputs) -> dict[str, float]:
    """The task's metrics of `outputs` against the labels of `split`."""
    labels = inputs.rows[split]["labels"][:]
    return inputs.data.task.score(outputs, labels, inputs.data.label_names)


def evaluate(inputs: Inputs, run: RunFolder) -> dict[str, Any]:
    """Score every split but train as it ships, quantizers on; keep each row's outputs on disk."""
    task, metrics = inputs.data.task, {}
    # Validation comes first: what the task chooses there holds for the other splits.
    for split in sorted(inputs.rows.keys() - {"train"}, key=lambda name: name != "validation"):
        metrics[split] = record_evaluation(
            task, inputs.student, inputs.rows[split], inputs.data.splits[split], split, run
        )
        task = tuned(task, run)
    return {"metrics": metrics}
