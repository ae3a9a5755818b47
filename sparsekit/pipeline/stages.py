"""The stages of a run before its export: each writes its part of the run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from safetensors.torch import load_file

from sparsekit import metrics
from sparsekit.config.identity import identity_hash
from sparsekit.data.datasets import TextData
from sparsekit.data.labels import matching_order
from sparsekit.errors import ConfigError
from sparsekit.metrics.report import write_report
from sparsekit.models.loading import Classifier, id2label
from sparsekit.models.predict import predict_logits
from sparsekit.models.pruning import sparsity
from sparsekit.modifiers.quantization.fake_quantize import unseen
from sparsekit.pipeline.plan import Inputs, Plan
from sparsekit.recipe import schedule
from sparsekit.runs.folder import RunFolder
from sparsekit.system import versions
from sparsekit.training.callbacks import assert_masks

LOG = logging.getLogger(__name__)


def identity(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """What distinguishes this run from others: group choices `names`, config hash and seed."""
    return {"config": {**names, "hash": identity_hash(values)}, "seed": values["seed"]}


def load_data(plan: Plan) -> TextData:
    """The data, its labels in the student's order where the student names the same labels."""
    data = plan.dataset.load()
    order = matching_order(data.label_names, id2label(plan.student.config()))
    if order is None or order == sorted(order):
        return data
    return data.with_label_order([data.label_names[order.index(i)] for i in range(len(order))])


def write_schedule(plan: Plan, total_steps: int, run: RunFolder) -> None:
    """Print the recipe in optimizer steps, and write it to `schedule.json`.

    Raises ConfigError if the exported model would not be quantized by any step. The plan can check
    that only with `training.max_steps`; here the number of steps in an epoch is known.
    """
    Console(stderr=True).print(schedule.table(plan.recipe, total_steps))
    rows = schedule.windows(plan.recipe, total_steps)
    text = json.dumps({"total_steps": total_steps, "modifiers": rows}, indent=2)
    run.schedule.write_text(text + "\n")
    if plan.export and (problems := plan.recipe.step_problems(total_steps)):
        raise ConfigError(problems)


def score(plan: Plan, inputs: Inputs, split: str, logits: np.ndarray) -> dict[str, float]:
    """The data set's metrics of `logits` [rows, labels] against the labels of `split`."""
    labels = np.array(inputs.rows[split]["labels"])
    return metrics.compute(plan.dataset.metrics, logits, labels)


def trained(
    plan: Plan, student: Classifier, run: RunFolder, measured: dict[str, Any], precision: str
) -> dict[str, Any]:
    """Save the recipe in `model/` and check its masks; `measured` is the summary's `train`."""
    plan.recipe.save(
        run.model_recipe,
        {
            "per_device_train_batch_size": plan.training.per_device_train_batch_size,
            "gradient_accumulation_steps": plan.training.gradient_accumulation_steps,
            "precision": precision,
            "seed": plan.training.seed,
            "steps": measured["steps"],
            "versions": versions(),
        },
    )
    assert_masks(plan.recipe, load_file(run.weights), f"in {run.model}")
    if unobserved := unseen(student.model):
        LOG.warning(
            "%d quantizers observed no values and round most weights to zero, among them %s: "
            "training ended before quantization started; train more steps, or start earlier "
            "(recipe.qat_epochs)",
            len(unobserved),
            unobserved[0],
        )
    return {
        "train": measured,
        "sparsity": sparsity(student.model),
        "quantization": {"modules": plan.recipe.quantized_modules},
    }


def evaluate(plan: Plan, inputs: Inputs, run: RunFolder) -> dict[str, Any]:
    """Score every split but train as it ships, quantizers on; keep each row's logits on disk."""
    scores = {}
    run.evaluations.mkdir(exist_ok=True)
    student = inputs.student
    for split in inputs.rows.keys() - {"train"}:
        logits = predict_logits(student.model, inputs.rows[split], student.tokenizer)
        scores[split] = score(plan, inputs, split, logits)
        labels = np.array(inputs.rows[split]["labels"])
        write_report(run.evaluations, split, logits, labels, inputs.data.label_names)
        table = inputs.data.splits[split]
        if "text_pair" not in table.column_names:
            table = table.add_column("text_pair", [None] * len(table))
        table = table.add_column("logits", logits.tolist())
        table.to_parquet(str(run.evaluation(split)))
    return {"metrics": scores}
