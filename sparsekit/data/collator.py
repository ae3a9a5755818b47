"""Collation of tokenized rows into batches of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

# The label of tokens that count for nothing, as torch's cross entropy has it.
IGNORED = -100


@dataclass
class Collator:
    """Pads a batch to its longest row; `labels` and the teacher's columns become tensors.

    padding: what fills columns that hold a list for each row, such as a label for each token.
        `labels` are padded on the tokenizer's side, others on the right.
    """

    tokenizer: PreTrainedTokenizerBase
    padding: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        names = [name for name in rows[0] if name in self.tokenizer.model_input_names]
        batch = self.tokenizer.pad(
            [{name: row[name] for name in names} for row in rows], return_tensors="pt"
        )
        for name in rows[0]:
            if name != "labels" and not name.startswith("teacher_"):
                continue
            values = [row[name] for row in rows]
            if name in self.padding:
                left = name == "labels" and self.tokenizer.padding_side == "left"
                batch[name] = padded(values, self.padding[name], left)
            else:
                batch[name] = torch.tensor(values)
        return dict(batch)


def padded(rows: Sequence[Sequence[Any]], fill: float, left: bool = False) -> Tensor:
    """Lists of different lengths as one tensor [rows, longest, ...].

    >>> padded([[1, 2], [3]], -100).tolist(), padded([[1, 2], [3]], 0, left=True).tolist()
    ([[1, 2], [3, -100]], [[1, 2], [0, 3]])
    """
    arrays = [torch.tensor(np.asarray(row)) for row in rows]
    filled = max(arrays, key=len)
    shape = (len(arrays), *filled.shape)
    batch = torch.full(shape, fill, dtype=_dtype(filled))
    for row, array in zip(batch, arrays, strict=True):
        if not len(array):  # an empty list does not say what its entries would be
            continue
        start = len(row) - len(array) if left else 0
        row[start : start + len(array)] = array
    return batch


def _dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else torch.int64
