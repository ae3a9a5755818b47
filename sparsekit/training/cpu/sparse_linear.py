"""What weights that a mask holds at zero need not cost: their gradients, and their products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsekit.kernels.sparse_linear import MIN_SPARSITY, SparsePattern, sparse_linear
from sparsekit.modifiers.base import NO_MASKS, Masks, Modifier
from sparsekit.modifiers.quantization.fake_quantize import QuantLinear
from sparsekit.recipe.recipe import Recipe


class MaskedLinear(nn.Linear):
    """A Linear that multiplies no zeros while it trains, where `pattern` is set."""

    pattern: SparsePattern | None = None

    def forward(self, values: Tensor) -> Tensor:
        plain = values.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        if self.pattern is None or plain or not self.training:
            return F.linear(values, self.weight, self.bias)
        return sparse_linear(values, self.weight, self.bias, self.pattern)


class _Followed:
    """What the masks of one modifier have set up, and for which state of them."""

    def __init__(self) -> None:
        self._masks = NO_MASKS
        self.hooks: list[RemovableHandle] = []
        self.layers: list[MaskedLinear | QuantLinear] = []

    def is_up_to_date(self, masks: Masks) -> bool:
        before = self._masks
        return masks.masks is before.masks and (masks.final, masks.uses_gradients) == (
            before.final,
            before.uses_gradients,
        )

    def note(self, masks: Masks) -> None:
        self._masks = masks

    def release(self) -> None:
        for hook in self.hooks:
            hook.remove()
        for layer in self.layers:
            vars(layer).pop("pattern", None)
        self._masks = NO_MASKS
        self.hooks, self.layers = [], []


class SparseLinears:
    """Follows the masks of a recipe: what they hold at zero gets no gradient, as in SparseML.

    So it neither counts when gradients are clipped nor gathers moments in the optimizer. With
    `sparse_products`, the Linear layers whose masks stay as they are, sparse enough, multiply no
    zeros either. Which do is a matter of the recipe alone, so a resumed run repeats it to the bit.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, sparse_products: bool) -> None:
        self._model = model
        self._modifiers: list[Modifier] = list(recipe.modifiers.values())
        self._sparse_products = sparse_products
        self._followed: list[_Followed] = [_Followed() for _ in self._modifiers]
        # How many layers multiplied no zeros at the most.
        self.sparse_layers = 0

    def follow(self) -> None:
        """Take over the masks that are held now; costs nothing as long as they stay."""
        changed = [
            (masks, followed)
            for modifier, followed in zip(self._modifiers, self._followed, strict=True)
            if not followed.is_up_to_date(masks := modifier.masks())
        ]
        # All are released first: one modifier may hand its layers to another.
        for _, followed in changed:
            followed.release()
        for masks, followed in changed:
            self._take(masks, followed)
        now = sum(len(followed.layers) for followed in self._followed)
        self.sparse_layers = max(self.sparse_layers, now)

    def release(self) -> None:
        """Make the layers plain ones again."""
        for followed in self._followed:
            followed.release()
        for module in self._model.modules():
            if isinstance(module, MaskedLinear):
                module.__class__ = nn.Linear  # type: ignore[assignment]

    def _take(self, masks: Masks, followed: _Followed) -> None:
        followed.note(masks)
        if masks.uses_gradients:
            return
        for name, mask in masks.masks.items():
            layer = self._sparse_layer(name, mask) if masks.final else None
            if layer is None:
                followed.hooks.append(_mask_gradient(self._model.get_parameter(name), mask))
            else:
                layer.pattern = SparsePattern(mask)
                followed.layers.append(layer)

    def _sparse_layer(self, name: str, mask: Tensor) -> MaskedLinear | QuantLinear | None:
        if not self._sparse_products or mask.sum() > (1 - MIN_SPARSITY) * mask.numel():
            return None
        module = self._model.get_submodule(name.rpartition(".")[0])
        if type(module) is nn.Linear:
            # In place: modifiers and hooks know the layer as this very object.
            module.__class__ = MaskedLinear
        return module if isinstance(module, MaskedLinear | QuantLinear) else None


def _mask_gradient(weight: nn.Parameter, mask: Tensor) -> RemovableHandle:
    mask = mask.to(weight.device)

    def masked(gradient: Tensor) -> Tensor:
        return torch.where(mask, gradient, 0.0)

    # A weight that a recipe has frozen, for now, takes no hook otherwise.
    trains = weight.requires_grad
    weight.requires_grad_(True)
    handle: RemovableHandle = weight.register_hook(masked)  # type: ignore[no-untyped-call]
    weight.requires_grad_(trains)
    return handle
