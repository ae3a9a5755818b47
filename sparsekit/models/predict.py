"""Inference over a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.data.collator import IGNORED
from sparsekit.data.collator import padded as padded_rows
from sparsekit.models.first_token import only_first_token
from sparsekit.runtime.tasks.base import Array, Output
from sparsekit.tasks.base import Task
from sparsekit.tasks.inputs import inputs_of

# Per batch, padding included: enough for full speed, few enough for a CPU's cache.
BATCH_TOKENS = 2048


def predict_outputs(
    model: PreTrainedModel,
    task: Task,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device | None = None,
) -> dict[str, Output]:
    """The task's outputs by name in float32, in the order of the rows, with dropout off.

    Rows are batched by length, so that there is little padding; outputs of padding are left out.
    Tokens that influence no output are not computed. Afterwards, and after an exception, the model
    is as it was.

    device: where the model runs meanwhile; None: where it is.
    """
    with _answering(model, task, device):
        return _outputs(model, task, rows, tokenizer)


@contextmanager
def _answering(model: PreTrainedModel, task: Task, device: torch.device | None) -> Iterator[None]:
    """A context in which the model is in evaluation mode on `device`."""
    modes, home = [(module, module.training) for module in model.modules()], model.device
    moves = device is not None and device != home
    shortened = None
    try:
        if moves:
            cast(nn.Module, model).to(device)
        model.eval()
        shortened = only_first_token(model) if task.first_token else None
        yield
    finally:
        if shortened is not None:
            shortened.remove()
        for module, training in modes:
            module.training = training
        if moves:
            cast(nn.Module, model).to(home)


@torch.inference_mode()
def _outputs(
    model: PreTrainedModel, task: Task, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Output]:
    given = [name for name in rows.column_names if name in tokenizer.model_input_names]
    inputs = inputs_of(model, given)
    columns = {name: rows[name][:] for name in inputs}
    if task.outputs_of_labels:
        columns["labels"] = rows["labels"][:]
    left = tokenizer.padding_side == "left"
    lengths = np.array(rows["length"])
    found: dict[str, dict[int, Array]] = {name: {} for name in task.outputs}
    for batch in length_batches(lengths, BATCH_TOKENS):
        features = [{name: columns[name][i] for name in inputs} for i in batch]
        padded = tokenizer.pad(features, return_tensors="pt").to(model.device)
        mask = padded["attention_mask"].cpu().numpy().astype(bool)
        returned = model(**padded)
        if task.outputs_of_labels:
            labels = padded_rows([columns["labels"][i] for i in batch], IGNORED, left)
            padded["labels"] = labels.to(model.device)
        outputs = task.model_outputs(returned, padded)
        for name, output in zip(task.outputs, outputs, strict=True):
            array = output.float().cpu().numpy()
            for i, values, real in zip(batch.tolist(), array, mask, strict=True):
                found[name][i] = values[real] if task.per_token else values
    each = {name: [values[i] for i in range(len(rows))] for name, values in found.items()}
    return {n: v if task.per_token else np.stack(v) for n, v in each.items()}


def length_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Row indices in batches of similar length, each of at most `batch_tokens` when padded."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, batch_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches
