"""Masked weights get no gradients, and sparse layers skip them in their matmuls."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsekit.kernels.sparse_linear import MIN_SPARSITY, SparsePattern, sparse_linear
from sparsekit.kernels.tensors import float32_on_cpu
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
        plain = torch.is_autocast_enabled("cpu") or not float32_on_cpu(
            values, self.weight, self.bias
        )
        if self.pattern is None or plain or not self.training:
            return F.linear(values, self.weight, self.bias)
        return sparse_linear(values, self.weight, self.bias, self.pattern)


class _Followed:
    """The hook and the layer that the masks of one weight have led to, of all modifiers."""

    def __init__(self) -> None:
        self.hook: RemovableHandle | None = None
        self.layer: MaskedLinear | QuantLinear | None = None

    def release(self) -> None:
        if self.hook is not None:
            self.hook.remove()
        if self.layer is not None:
            vars(self.layer).pop("pattern", None)


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
        # Of each modifier the masks that are applied, and by name what they have led to.
        self._masks: list[Masks] = [NO_MASKS for _ in self._modifiers]
        self._followed: dict[str, _Followed] = {}
        # The largest number of layers with sparse matmuls so far.
        self.sparse_layers = 0

    def follow(self, steps_per_epoch: float) -> None:
        """Apply the current masks of all modifiers; cheap if none has changed."""
        before, self._masks = self._masks, [modifier.masks() for modifier in self._modifiers]
        changed: set[str] = set()
        for earlier, now in zip(before, self._masks, strict=True):
            if now.masks is not earlier.masks or now.epochs != earlier.epochs:
                changed |= {*earlier.masks, *now.masks}
        # In the order of the masks, which does not depend on hashes.
        names = dict.fromkeys(name for masks in (*before, *self._masks) for name in masks.masks)
        for name in names:
            if name in changed:
                self._apply(name, steps_per_epoch)
        layers = sum(followed.layer is not None for followed in self._followed.values())
        self.sparse_layers = max(self.sparse_layers, layers)

    def release(self) -> None:
        """Restore plain Linear layers without hooks."""
        for followed in self._followed.values():
            followed.release()
        self._followed, self._masks = {}, [NO_MASKS for _ in self._modifiers]
        for module in self._model.modules():
            if isinstance(module, MaskedLinear):
                module.__class__ = nn.Linear  # type: ignore[assignment]

    def _apply(self, name: str, steps_per_epoch: float) -> None:
        """Apply the masks of the weight `name` together: several modifiers may mask it."""
        if name in self._followed:
            self._followed.pop(name).release()
        lasting: list[Tensor] = []
        passing: list[Tensor] = []
        for masks in self._masks:
            if (mask := masks.masks.get(name)) is not None:
                lasts = masks.epochs * steps_per_epoch >= MIN_STEPS
                (lasting if lasts else passing).append(mask)
        if not lasting and not passing:
            return
        followed = self._followed[name] = _Followed()
        if lasting and (layer := self._sparse_layer(name, kept := _kept_by_all(lasting))):
            layer.pattern, followed.layer = SparsePattern(kept), layer
        if passing or followed.layer is None:
            weight = self._model.get_parameter(name)
            followed.hook = _mask_gradient(weight, _kept_by_all([*lasting, *passing]))

    def _sparse_layer(self, name: str, mask: Tensor) -> MaskedLinear | QuantLinear | None:
        if (
            mask.ndim != 2
            or mask.numel() == 0
            or not self._sparse_products
            or mask.sum() > (1 - MIN_SPARSITY) * mask.numel()
        ):
            return None
        module = self._model.get_submodule(name.rpartition(".")[0])
        if type(module) is nn.Linear:
            # In place, since modifiers and hooks refer to this object.
            module.__class__ = MaskedLinear
        return module if isinstance(module, MaskedLinear | QuantLinear) else None


def _kept_by_all(masks: Sequence[Tensor]) -> Tensor:
    """The weights that every mask keeps."""
    return functools.reduce(torch.logical_and, masks)


def _mask_gradient(weight: nn.Parameter, mask: Tensor) -> RemovableHandle:
    mask = mask.to(weight.device)

    # A hook can only be registered on a weight that requires a gradient; it may be frozen for now.
    trainable = weight.requires_grad
    weight.requires_grad_(True)
    handle: RemovableHandle = weight.register_hook(partial(masked, mask=mask))  # type: ignore[no-untyped-call]
    weight.requires_grad_(trainable)
    return handle
