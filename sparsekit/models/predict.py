"""Inference over a dataset."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.models.first_token import only_first_token
from sparsekit.models.loading import id2label

# Per batch, padding included: enough for full speed, few enough for a CPU's cache.
BATCH_TOKENS = 2048


@torch.inference_mode()
def predict_logits(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> np.ndarray:
    """Logits [rows, labels] in float32, in the order of the rows, with dropout off.

    Rows are batched by length, so that there is little padding. Tokens that influence no logit are
    not computed.
    """
    inputs = [name for name in rows.column_names if name in tokenizer.model_input_names]
    columns = {name: rows[name][:] for name in inputs}
    lengths = np.array(rows["length"])
    logits = np.empty((len(rows), len(id2label(model.config))), dtype=np.float32)
    training = model.training
    model.eval()
    shortened = only_first_token(model)
    for batch in length_batches(lengths, BATCH_TOKENS):
        features = [{name: columns[name][i] for name in inputs} for i in batch]
        padded = tokenizer.pad(features, return_tensors="pt").to(model.device)
        logits[batch] = model(**padded).logits.float().cpu().numpy()
    model.train(training)
    if shortened is not None:
        shortened.remove()
    return logits


def length_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Row indices in batches of similar length, each of at most `batch_tokens` when padded."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, batch_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches
