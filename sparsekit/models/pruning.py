"""Magnitude pruning of a model's prunable layers, and their sparsity."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsekit.errors import UserError
from sparsekit.sparsity.masks import magnitude_mask
from sparsekit.sparsity.prunable import nothing_prunable, prunable


@torch.no_grad()
def prune(model: nn.Module, sparsity: float) -> None:
    """Zero the smallest weights of each prunable layer by magnitude, to exactly `sparsity`.

    Raises UserError for a model without such layers.
    """
    if problem := nothing_prunable(model):
        raise UserError(problem)
    for name, module in prunable(model).items():
        module.weight.mul_(magnitude_mask(module.weight, sparsity, name=f"{name}.weight"))


def sparsity(model: nn.Module) -> dict[str, Any]:
    """The share of zeros: `overall` over the prunable layers, `layers` of each Linear layer."""
    zeros, sizes, layers = 0, 0, {}
    counted = prunable(model)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        layer_zeros = int((module.weight == 0).sum())
        layers[name] = layer_zeros / module.weight.numel()
        if name in counted:
            zeros, sizes = zeros + layer_zeros, sizes + module.weight.numel()
    return {"overall": zeros / max(sizes, 1), "layers": layers}
