"""The stages of a run before its export: each writes its part of the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsekit import metrics
from sparsekit.config.identity import identity_hash
from sparsekit.data.datasets import TextData
from sparsekit.data.labels import matching_order
from sparsekit.models.loading import id2label
from sparsekit.pipeline.plan import Inputs, Plan
from sparsekit.runs.folder import RunFolder
from sparsekit.training.record import record_evaluation


def identity(
    values: Mapping[str, Any], names: Mapping[str, str], data_files: str | None = None
) -> dict[str, Any]:
    """What distinguishes this run from others: group choices `names`, config hash and seed.

    data_files: the hash of the data set's files, which the config names by path alone.
    """
    known = {**names, "hash": identity_hash(values)}
    if data_files is not None:
        known["data_files"] = data_files
    return {"config": known, "seed": values["seed"]}


def load_data(plan: Plan) -> TextData:
    """The data, its labels in the student's order where the student names the same labels."""
    data = plan.dataset.load()
    order = matching_order(data.label_names, id2label(plan.student.config()))
    if order is None or order == sorted(order):
        return data
    return data.with_label_order([data.label_names[order.index(i)] for i in range(len(order))])


def score(plan: Plan, inputs: Inputs, split: str, logits: np.ndarray) -> dict[str, float]:
    """The data set's metrics of `logits` [rows, labels] against the labels of `split`."""
    labels = np.array(inputs.rows[split]["labels"])
    return metrics.compute(plan.dataset.metrics, logits, labels)


def evaluate(plan: Plan, inputs: Inputs, run: RunFolder) -> dict[str, Any]:
    """Score every split but train as it ships, quantizers on; keep each row's logits on disk."""
    return {
        "metrics": {
            split: record_evaluation(
                inputs.student,
                inputs.rows[split],
                inputs.data.splits[split],
                split,
                run,
                plan.dataset.metrics,
            )
            for split in inputs.rows.keys() - {"train"}
        }
    }
