"""Compares the outputs and metrics of the exported file with torch's, on real rows.

Quantizers round, so a difference in the last bit of a float can move an activation by one step, and
with it all later layers: two correct int8 programs agree exactly on most rows and differ on some by
a fraction of the effect of quantization. The limit on the difference is therefore relative to that
effect, which is measured on the same rows with the graph before quantization. What involves no
rounding, the traced graph, has to agree with torch to float32 precision.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding
from transformers import PreTrainedModel

from sparsekit.errors import UserError
from sparsekit.metrics.table import higher_is_better, limits
from sparsekit.onnx.probes import Batch, input_names, probes
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.evaluation_table import as_outputs, read_columns, read_texts
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.tasks.base import Array, Output, Outputs, flat
from sparsekit.tasks.base import Task

log = logging.getLogger(__name__)

TRACE_ROWS = 8
# Rows on which the effect of quantization is measured.
EFFECT_ROWS = 64
# Answers that rounding may change on any number of rows: of 100, one is a whole point of accuracy.
FEW_ROWS = 2
# For float32 sums in another order, over up to 24 layers.
FP32_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Rows:
    """Validation rows: token ids, labels, and torch's outputs with quantizers on."""

    encodings: list[Encoding]
    labels: list[Any]
    label_names: list[str]
    outputs: dict[str, Output]


def read_rows(file: Path, task: Task, encoder: TextEncoder) -> Rows:
    """The rows of `evaluation/validation.parquet`, encoded by the deployment's tokenizer."""
    if not file.is_file():
        raise UserError(
            f"there is no {file} to check the export against; export a run that has a "
            "validation split (eval_dataset of a SparseTrainer), or set export.verify=false"
        )
    columns = read_columns(file, ["label", *task.outputs])
    otherwise = ", or export with verify=False"
    texts = read_texts(file, task.answers.columns, "to check the export on", otherwise)
    encodings = task.answers.encode_table(encoder, texts)
    outputs = as_outputs(columns, task.outputs, task.per_token)
    return Rows(encodings, columns["label"], encoder.labels, outputs)


def check_trace(
    model: PreTrainedModel,
    task: Task,
    traced: OnnxRuntime,
    encoder: TextEncoder,
    encodings: Sequence[Encoding],
) -> None:
    """Check the graph before quantization against the plain torch model.

    Compares on a padded batch of `encodings` and on the probes of `onnx.probes`, whose lengths
    reach the longest that the tokenizer of the deployment lets through.
    """
    inputs = encoder.batch(encodings[:TRACE_ROWS])
    rows = {name: torch.from_numpy(inputs[name]) for name in input_names(model)}
    check_probes(model, task, traced, [rows, *probes(model, encoder.max_length)])


@torch.inference_mode()
def check_probes(
    model: PreTrainedModel, task: Task, traced: OnnxRuntime, batches: Sequence[Batch]
) -> None:
    """Check the graph before quantization against the plain torch model on each of `batches`.

    Raises UserError naming the batch on which they differ.
    """
    for batch in batches:
        outputs = traced.outputs({name: values.numpy() for name, values in batch.items()})
        expected = [each.numpy() for each in task.model_outputs(model(**batch), batch)]
        if task.answers.per_token:
            real = batch["attention_mask"].bool().numpy()
            outputs = tuple(each[real] for each in outputs)
            expected = [each[real] for each in expected]
        pairs = list(zip(outputs, expected, strict=True))
        # NumPy's max keeps a NaN of any output, Python's only that of the first.
        worst = np.max([np.abs(ours - theirs).max() for ours, theirs in pairs])
        size = np.max([np.abs(theirs).max() for theirs in expected])
        if not worst <= FP32_TOLERANCE * max(1.0, size):
            lengths = ", ".join(str(int(length)) for length in batch["attention_mask"].sum(1))
            left = batch["attention_mask"][:, 0].min() == 0
            raise UserError(
                "check 'trace' failed: before quantization the graph's outputs differ from torch's "
                f"by {worst:.2g} on rows of {lengths} tokens{' padded on the left' * bool(left)}, "
                f"the limit is {FP32_TOLERANCE:g} of their size; the architecture "
                f"{type(model).__name__} is not exported correctly: choose another student"
            )


def quantization_effect(plain: Array, *quantized: Array) -> float:
    """The mean absolute change of an output by quantization.

    Args:
        plain: outputs without quantization.
        quantized: outputs of torch's and of the exported model. If one of them is wrong, the other
            is nearer to `plain`, so the smaller change counts.
    """
    return min(float(np.abs(plain - logits).mean()) for logits in quantized)


def check_logits(exported: Output, recorded: Output, limit: float, where: str) -> float:
    """Check that outputs differ by at most `limit` on average; returns the largest difference."""
    ours, theirs = flat(exported), flat(recorded)
    if ours.shape != theirs.shape:
        raise UserError(
            f"check 'logits' failed: the graph's outputs are {list(ours.shape)}, those of "
            f"evaluation/ {list(theirs.shape)}: they are of two models; train or export again"
        )
    diff = np.abs(ours - theirs)
    mean = float(diff.mean())
    log.info("logits %s: mean difference %.2g, limit %.2g", where, mean, limit)
    if not mean <= limit:
        raise UserError(
            f"check 'logits' failed: {where} the exported logits differ from torch's by {mean:.2g} "
            f"on average over {len(exported)} rows, the limit is {limit:.2g}; was model/ changed "
            "after evaluation/ was written? Train again, or raise export.max_logit_diff"
        )
    return float(diff.max())


def check_metrics(
    task: Task, exported: Outputs, rows: Rows, max_metric_drop: float
) -> dict[str, float]:
    """The metrics of the exported outputs, checked to be no worse than those of torch's outputs.

    Better ones pass: on few rows, rounding improves a metric as often as it makes it worse.
    A metric without bounds, such as mse, has the unit of the data: above 1 its limit is relative.
    A bounded one may always move as far as `FEW_ROWS` answers can move a mean.
    """
    values = task.score(exported, rows.labels, rows.label_names)
    recorded = task.score(rows.outputs, rows.labels, rows.label_names)
    for name, value in recorded.items():
        if limits(name):
            limit = max(max_metric_drop, FEW_ROWS / len(rows.labels))
        else:
            limit = max_metric_drop * max(1.0, abs(value))
        drop = value - values[name] if higher_is_better(name) else values[name] - value
        # 1 - 0.995 is a little more than 0.005.
        if not drop <= limit + 1e-9:
            raise UserError(
                f"check 'metrics' failed: validation {name} is {values[name]:.4f} through "
                f"onnxruntime and {value:.4f} through torch, it may be worse by {limit:.4g} "
                "at most; train longer with quantization (recipe.qat_epochs), or raise "
                "export.max_metric_drop"
            )
    return values
