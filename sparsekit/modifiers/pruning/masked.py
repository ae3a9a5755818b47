"""Weights with masks that hold some of them at zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from sparsekit.modifiers.base import Modifier
from sparsekit.sparsity.masks import NOfM, Pattern, parse_mask_type


class MaskedWeights:
    """Parameters by name, and for each a boolean mask of its shape; False is held at zero.

    The zeros of the weights are the state: masks are set from them, saved with them, and come back
    with them when a run is resumed.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.weights = dict(weights)
        self.masks: dict[str, Tensor] = {}
        self._masked: list[Tensor] = []
        self._factors: list[Tensor] = []

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Replace the masks; weights that they do not name are free."""
        self.masks = dict(masks)
        self._masked = [self.weights[name] for name in self.masks]
        # Kept in the weights' type: a product of equal types is one fused kernel.
        self._factors = [
            mask.to(self.weights[name].device, self.weights[name].dtype)
            for name, mask in self.masks.items()
        ]

    def hold_zeros(self) -> None:
        """Hold at zero what is zero now."""
        masks = {name: weight.detach() != 0 for name, weight in self.weights.items()}
        self.hold({name: mask for name, mask in masks.items() if not mask.all()})

    @torch.no_grad()
    def apply(self) -> None:
        """Set what is masked to zero."""
        if not self._masked:
            return
        if self._factors[0].device != self._masked[0].device:
            self._factors = [factor.to(self._masked[0].device) for factor in self._factors]
        torch._foreach_mul_(self._masked, self._factors)

    def zeros(self) -> int:
        """How many weights are zero."""
        return sum(int((weight == 0).sum()) for weight in self.weights.values())

    def size(self) -> int:
        """How many weights there are."""
        return sum(weight.numel() for weight in self.weights.values())

    def violations(self, weights: Mapping[str, Tensor]) -> list[str]:
        """What in `weights`, by parameter name, breaks a mask: checked after save and reload."""
        found = []
        for name, mask in self.masks.items():
            revived = int((weights[name].cpu() != 0).logical_and(~mask.cpu()).sum())
            if revived:
                found.append(f"{name}: {revived} weights that the mask holds at zero are not zero")
        return found


_NONE: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(kw_only=True)
class Pruning(Modifier):
    """What every pruning shares: it holds masks while it is on; not used by itself.

    A subclass sets `_masked` in `attach`, and `_on` in `update`.
    """

    def __post_init__(self) -> None:
        self._masked = MaskedWeights({})
        self._on = False

    @property
    def names(self) -> set[str]:
        """The parameters that it prunes, once attached."""
        return set(self._masked.weights)

    def sparsity(self, epoch: float) -> dict[str, float | None]:
        """The planned sparsity of each pattern in `params` at `epoch`; None: as the weights are.

        Known without a model, for the schedule.
        """
        return {}

    @property
    def held(self) -> Mapping[str, Tensor]:
        """The masks that are held now, by parameter name; another object once they change."""
        return self._masked.masks if self._on else _NONE

    @property
    def settled(self) -> bool:
        """Whether the masks that are held now stay as they are to the end of their window."""
        return True

    @property
    def learns_from_zeros(self) -> bool:
        """Whether gradients of weights that are held at zero are still of use."""
        return False

    def constrain(self) -> None:
        if self._on:
            self._masked.apply()

    def violations(self, weights: Mapping[str, Tensor]) -> list[str]:
        """What in `weights`, by parameter name, breaks a mask that is held now."""
        return self._masked.violations(weights) if self._on else []


def mask_type_problems(mask_type: str | Sequence[int], targets: Mapping[str, float]) -> list[str]:
    """What is wrong with a mask_type, or with the sparsities, by name, that it is to reach."""
    try:
        pattern = parse_mask_type(mask_type)
    except ValueError as error:
        return [str(error)]
    if not isinstance(pattern, NOfM):
        return []
    return [
        f"mask_type {mask_type} fixes the sparsity at {pattern.sparsity:g}, but {name} is "
        f"{share:g}; set it to {pattern.sparsity:g}"
        for name, share in targets.items()
        if not math.isclose(share, pattern.sparsity)
    ]


def undivided(
    mask_type: str | Sequence[int], pattern: Pattern, weights: Mapping[str, Tensor]
) -> list[str]:
    """The weights that do not consist of whole blocks (groups) of the pattern, as problems."""
    return [
        f"mask_type {mask_type} does not divide {name} of shape {tuple(weight.shape)}; leave it "
        "out of params or choose another mask_type"
        for name, weight in weights.items()
        if not pattern.divides(weight.shape)
    ]
