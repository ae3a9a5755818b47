"""Masked weights, and the base class of pruning modifiers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsekit.modifiers.base import NO_MASKS, Masks, Modifier, match_parameters, overlap
from sparsekit.sparsity.masks import NOfM, Pattern, mean_share, parse_mask_type
from sparsekit.sparsity.planned import PlannedZeros


class MaskedWeights:
    """Parameters by name, with boolean masks of their shapes; False sets a weight to zero.

    Zeros do not tell which modifier made them, so a checkpoint has the masks of each beside the
    weights. A run that resumes from one without them takes the zeros of the weights.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.weights = dict(weights)
        self.masks: dict[str, Tensor] = {}
        self._masked: list[Tensor] = []
        self._factors: list[Tensor] = []

    def set(self, masks: Mapping[str, Tensor]) -> None:
        """Replace the masks; weights that `masks` does not name have none."""
        self.masks = dict(masks)
        self._masked = [self.weights[name] for name in self.masks]
        # In the dtype of the weights: multiplying equal dtypes is one fused kernel.
        self._factors = [
            mask.to(self.weights[name].device, self.weights[name].dtype)
            for name, mask in self.masks.items()
        ]

    def set_from_zeros(self) -> None:
        """Mask the weights that are zero now."""
        masks = {name: weight.detach() != 0 for name, weight in self.weights.items()}
        self.set({name: mask for name, mask in masks.items() if not mask.all()})

    @torch.no_grad()
    def apply(self) -> None:
        """Set masked weights to zero."""
        if not self._masked:
            return
        if self._factors[0].device != self._masked[0].device:
            self._factors = [factor.to(self._masked[0].device) for factor in self._factors]
        torch._foreach_mul_(self._masked, self._factors)

    def zeros(self) -> int:
        """The number of weights that are zero."""
        return sum(int((weight == 0).sum()) for weight in self.weights.values())

    def size(self) -> int:
        """The number of weights."""
        return sum(weight.numel() for weight in self.weights.values())


@dataclass(kw_only=True)
class Pruning(Modifier):
    """Base class of pruning modifiers, which apply masks while they are active.

    A subclass sets `_masked` in `attach`, and `_on` in `update`.
    """

    kind: ClassVar[str] = "pruning"
    # Whether it makes new zeros, so that two of them cannot prune the same weight at once.
    adds_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._masked = MaskedWeights({})
        self._on = False
        # Those of the checkpoint, until they are applied or replaced; None: not known.
        self._resumed: dict[str, Tensor] | None = None

    def conflict(self, other: Modifier) -> str | None:
        if not isinstance(other, Pruning) or not (self.adds_zeros and other.adds_zeros):
            return None
        shared = self.masked_names & other.masked_names
        if not shared:
            return None
        if self.resizes or other.resizes:
            structured, single = (self, other) if self.resizes else (other, self)
            # Structures stay masked until they are removed, after the window's end too.
            if single.end is not None and single.end <= structured.start:
                return None
            return (
                f"prune {min(shared)}, one of them whole structures, which the other would count "
                "as its own zeros; set sparsity of the StructuredPruning and remove the other"
            )
        if not overlap(self, other):
            return None
        return (
            f"prune {min(shared)} at epoch {max(self.start, other.start):g}; give them other "
            "params or windows that do not overlap"
        )

    def final_from(self, num_epochs: float) -> float:
        return num_epochs if self.end is None else min(self.end, num_epochs)

    @property
    def masked_names(self) -> set[str]:
        return set(self._masked.weights)

    def masks(self) -> Masks:
        if not self._on:
            return NO_MASKS
        return Masks(self._masked.masks, self.mask_epochs)

    @property
    def mask_epochs(self) -> float:
        """How many epochs the current masks last; inf if they stay to the end of the window."""
        return math.inf

    def resume(self, masks: Mapping[str, Tensor]) -> None:
        self._resumed = {name: m for name, m in masks.items() if name in self._masked.weights}

    def constrain(self) -> None:
        if self._on:
            self._masked.apply()

    def resized(self, model: nn.Module) -> None:
        left = dict(model.named_parameters())
        masked = set(self._masked.masks)
        self._masked = MaskedWeights({n: left[n] for n in self._masked.weights if n in left})
        zeros = {n: left[n].detach() != 0 for n in masked if n in left}
        self._masked.set(zeros)


def mask_type_problems(mask_type: str | Sequence[int], targets: Mapping[str, float]) -> list[str]:
    """Problems of a mask_type, and of target sparsities by name that it cannot have."""
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
    """A problem for each weight whose shape is not a multiple of the mask's blocks (groups)."""
    return [
        f"mask_type {mask_type} does not divide {name} of shape {tuple(weight.shape)}; leave it "
        "out of params or choose another mask_type"
        for name, weight in weights.items()
        if not pattern.divides(weight.shape)
    ]


def zeros_of_shares(
    model: nn.Module, shares: Mapping[str, float | None], pattern: Pattern, ranks_globally: bool
) -> list[PlannedZeros]:
    """The zeros that a share of each pattern of `params` makes; None makes none.

    ranks_globally: whether weights are ranked over all of them, which may differ in their shares
        then.
    """
    each = {
        name: share
        for params, share in shares.items()
        if share
        for name in match_parameters(model, params)
    }
    if not ranks_globally or not each:
        return [PlannedZeros(names=[n], share=s, pattern=pattern) for n, s in each.items()]
    overall = mean_share(each, {name: model.get_parameter(name) for name in each})
    return [PlannedZeros(names=list(each), share=overall, pattern=pattern)]
