"""Pruning: masks of zeros that training must keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsekit.config import ConfigError
from sparsekit.modifiers.base import ALL_PRUNABLE, Modifier, match_parameters

# A dense checkpoint has a few exact zeros by chance; a pruned one has at least this share.
MIN_SPARSITY = 0.01


@dataclass(kw_only=True)
class ConstantPruning(Modifier):
    """Keeps every weight that is zero at the start at zero: the sparsity of the student stays.

    `params` names weights: `__ALL_PRUNABLE__`, exact names, or `re:` patterns.
    """

    params: str | list[str] = ALL_PRUNABLE

    def attach(self, model: nn.Module) -> None:
        found = match_parameters(model, self.params)
        masks = {name: parameter.detach() != 0 for name, parameter in found.items()}
        zeros = sum(int((~mask).sum()) for mask in masks.values())
        total = sum(mask.numel() for mask in masks.values())
        if zeros < MIN_SPARSITY * total:
            raise ConfigError(
                [
                    f"params {self.params!r}: {zeros} of {total} weights are zero, so there is no "
                    "sparsity to keep; choose a pruned student, prune it at load with "
                    "student.sparsity=0.8, or remove the modifier"
                ]
            )
        self._masks = {name: mask for name, mask in masks.items() if not mask.all()}
        self._weights: list[Tensor] = [found[name] for name in self._masks]
        # Kept in the weights' type: a product of equal types is one fused kernel.
        self._factors = [mask.to(found[name].dtype) for name, mask in self._masks.items()]

    def update(self, epoch: float) -> None:
        self._on = self.active(epoch)

    @torch.no_grad()
    def constrain(self) -> None:
        if not self._on:
            return
        if self._factors[0].device != self._weights[0].device:
            self._factors = [factor.to(self._weights[0].device) for factor in self._factors]
        torch._foreach_mul_(self._weights, self._factors)

    def violations(self, weights: Mapping[str, Tensor]) -> list[str]:
        """What in `weights`, by parameter name, breaks the mask: checked after save and reload."""
        found = []
        for name, mask in self._masks.items():
            revived = int((weights[name].cpu() != 0).logical_and(~mask.cpu()).sum())
            if revived:
                found.append(f"{name}: {revived} weights that the mask holds at zero are not zero")
        return found
