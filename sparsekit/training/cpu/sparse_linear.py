"""Masked weights get no gradients, and sparse layers skip them in their matmuls."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsekit.kernels.sparse_linear import MIN_SPARSITY, SparsePattern, sparse_linear
from sparsekit.modifiers.base import NO_MASKS, Masks, Modifier
from sparsekit.modifiers.quantization.fake_quantize import QuantLinear
from sparsekit.recipe.recipe import Recipe
from sparsekit.sparsity.masks import masked

# The steps for which a mask must last: building its pattern takes time (on one core of an AMD EPYC,
# Zen 3, 16 ms for 384 x 384 weights and 220 for 3072 x 768).
MIN_STEPS = 16


class MaskedLinear(nn.Linear):
    """A Linear that skips masked weights in training, if `pattern` is set."""

    pattern: SparsePattern | None = None

    def forward(self, values: Tensor) -> Tensor:
        supported = values.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if self.pattern is None or not supported or not self.training:
            return F.linear(values, self.weight, self.bias)
        return sparse_linear(values, self.weight, self.bias, self.pattern)


class _Followed:
    """The hooks and layers that the masks of one modifier have led to, and those masks."""

    def __init__(self) -> None:
        self._masks = NO_MASKS
        self.hooks: list[RemovableHandle] = []
        self.layers: list[MaskedLinear | QuantLinear] = []

    def is_up_to_date(self, masks: Masks) -> bool:
        before = self._masks
        return masks.masks is before.masks and masks.epochs == before.epochs

    def remember(self, masks: Masks) -> None:
        self._masks = masks

    def release(self) -> None:
        for hook in self.hooks:
            hook.remove()
        for layer in self.layers:
            vars(layer).pop("pattern", None)
        self._masks = NO_MASKS
        self.hooks, self.layers = [], []


class SparseLinears:
    """Applies the masks of a recipe to gradients and matmuls.

    Masked weights get no gradient, as in SparseML: they neither count in the norm for clipping nor
    accumulate averages in the optimizer. With `sparse_products`, Linear layers whose mask lasts for
    MIN_STEPS and is sparse enough skip masked weights in their matmuls too. Which layers do depends
    on the recipe alone, so a resumed run repeats the same computation.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, sparse_products: bool) -> None:
        self._model = model
        self._modifiers: list[Modifier] = list(recipe.modifiers.values())
        self._sparse_products = sparse_products
        self._followed: list[_Followed] = [_Followed() for _ in self._modifiers]
        # The largest number of layers with sparse matmuls so far.
        self.sparse_layers = 0

    def follow(self, steps_per_epoch: float) -> None:
        """Apply the current masks of all modifiers; cheap if none has changed."""
        changed = [
            (masks, followed)
            for modifier, followed in zip(self._modifiers, self._followed, strict=True)
            if not followed.is_up_to_date(masks := modifier.masks())
        ]
        # All are released first, since a layer may pass from one modifier to another.
        for _, followed in changed:
            followed.release()
        for masks, followed in changed:
            self._apply(masks, followed, masks.epochs * steps_per_epoch >= MIN_STEPS)
        now = sum(len(followed.layers) for followed in self._followed)
        self.sparse_layers = max(self.sparse_layers, now)

    def release(self) -> None:
        """Restore plain Linear layers without hooks."""
        for followed in self._followed:
            followed.release()
        for module in self._model.modules():
            if isinstance(module, MaskedLinear):
                module.__class__ = nn.Linear  # type: ignore[assignment]

    def _apply(self, masks: Masks, followed: _Followed, lasting: bool) -> None:
        followed.remember(masks)
        for name, mask in masks.masks.items():
            layer = self._sparse_layer(name, mask) if lasting else None
            if layer is None:
                followed.hooks.append(_mask_gradient(self._model.get_parameter(name), mask))
            else:
                layer.pattern = SparsePattern(mask)
                followed.layers.append(layer)

    def _sparse_layer(self, name: str, mask: Tensor) -> MaskedLinear | QuantLinear | None:
        if (
            mask.ndim != 2
            or not self._sparse_products
            or mask.sum() > (1 - MIN_SPARSITY) * mask.numel()
        ):
            return None
        module = self._model.get_submodule(name.rpartition(".")[0])
        if type(module) is nn.Linear:
            # In place, since modifiers and hooks refer to this object.
            module.__class__ = MaskedLinear
        return module if isinstance(module, MaskedLinear | QuantLinear) else None


def _mask_gradient(weight: nn.Parameter, mask: Tensor) -> RemovableHandle:
    mask = mask.to(weight.device)

    # A hook can only be registered on a weight that requires a gradient; it may be frozen for now.
    trainable = weight.requires_grad
    weight.requires_grad_(True)
    handle: RemovableHandle = weight.register_hook(partial(masked, mask=mask))  # type: ignore[no-untyped-call]
    weight.requires_grad_(trainable)
    return handle
