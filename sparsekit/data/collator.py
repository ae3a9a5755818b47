"""Collation of tokenized rows into batches of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass
class Collator:
    """Pads a batch to its longest row; labels and a teacher's outputs become tensors unchanged."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        names = [name for name in rows[0] if name in self.tokenizer.model_input_names]
        batch = self.tokenizer.pad(
            [{name: row[name] for name in names} for row in rows], return_tensors="pt"
        )
        for name in rows[0]:
            if name == "labels" or name.startswith("teacher_"):
                batch[name] = torch.tensor([row[name] for row in rows])
        return dict(batch)
