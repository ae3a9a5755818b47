"""The masks of each modifier in a checkpoint: zeros of weights do not tell whose they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from sparsekit.recipe.modifier_group import ModifierGroup

# One bit for each weight, by the modifier's name in the recipe and the parameter's.
MASKS = "masks.safetensors"


def save_masks(recipe: ModifierGroup, checkpoint: Path) -> None:
    """Write the masks that the recipe's modifiers apply now into a checkpoint's folder."""
    bits = {
        f"{name}/{parameter}": np.packbits(mask.cpu().numpy())
        for name, modifier in recipe.modifiers.items()
        for parameter, mask in modifier.masks().masks.items()
    }
    save_file(bits, checkpoint / MASKS)


def load_masks(recipe: ModifierGroup, model: nn.Module, checkpoint: Path) -> None:
    """Give the recipe's modifiers their masks of a checkpoint, if it has any."""
    if not (checkpoint / MASKS).is_file():
        return
    weights = dict(model.named_parameters())
    found: dict[str, dict[str, Tensor]] = {name: {} for name in recipe.modifiers}
    for key, bits in load_file(checkpoint / MASKS).items():
        name, _, parameter = key.rpartition("/")
        # A run that goes on despite changes may have other modifiers, and other weights.
        weight = weights.get(parameter)
        if name in found and weight is not None and len(bits) == -(-weight.numel() // 8):
            mask = np.unpackbits(bits, count=weight.numel()).astype(bool).reshape(weight.shape)
            found[name][parameter] = torch.from_numpy(mask).to(weight.device)
    for name, masks in found.items():
        recipe.modifiers[name].resume(masks)
