"""Masks: which weights are kept. Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """A boolean mask of `weight`'s shape with exactly round(sparsity * numel) False entries.

    False marks the smallest magnitudes; among equals the first in memory order go first, so the
    mask is the same on every run.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity {sparsity} lies outside of [0, 1]")
    pruned = round(sparsity * weight.numel())
    order = torch.argsort(weight.detach().abs().flatten(), stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:pruned]] = False
    return mask.view_as(weight)
