"""The sizes of a model's layers as plain values, for records and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sparsekit.shape.blocks import blocks
from sparsekit.shape.kept import hidden_width


def sizes(model: PreTrainedModel) -> dict[str, Any]:
    """The heads and neurons of each layer, the hidden width, and the number of parameters."""
    layers = blocks(model)
    return {
        "heads": [block.heads for block in layers],
        "neurons": [block.neurons for block in layers],
        "hidden": hidden_width(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def zeros_by_layer(model: PreTrainedModel) -> list[float]:
    """The share of zeros in the weights of each layer's Linear modules; 0 for one without any."""
    found = []
    for block in blocks(model):
        weights = [m.weight.detach() for m in block.module.modules() if isinstance(m, nn.Linear)]
        total = sum(weight.numel() for weight in weights)
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        found.append(zeros / total if total else 0.0)
    return found


def shape_record(model: PreTrainedModel, before: Mapping[str, Any]) -> dict[str, Any]:
    """`summary.shape`: sizes and zeros of a model that became smaller, and its sizes before."""
    return {**sizes(model), "zeros": zeros_by_layer(model), "before": dict(before)}
