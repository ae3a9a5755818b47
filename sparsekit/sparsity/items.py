"""What a model's loss is a mean over: rows, or their labelled tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_IGNORED = nn.CrossEntropyLoss().ignore_index


def labels_per_token(batch: Mapping[str, Tensor]) -> bool:
    """Whether a batch has a label for each token: a class, or -100 for none.

    Multi-label rows may have as many labels as tokens, but these are floats.
    """
    labels, tokens = batch["labels"], batch.get("input_ids")
    return tokens is not None and not labels.is_floating_point() and labels.shape == tokens.shape


def items_of_rows(batch: Mapping[str, Tensor]) -> Tensor:
    """Over how many items [rows] of each row the loss is a mean: labelled tokens, or itself."""
    labels = batch["labels"]
    if labels_per_token(batch):
        return (labels != _IGNORED).sum(1)
    return torch.ones(len(labels), dtype=torch.long, device=labels.device)
