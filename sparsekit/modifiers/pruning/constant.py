"""Constant pruning: weights that are zero stay zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sparsekit.errors import ConfigError
from sparsekit.modifiers.base import ALL_PRUNABLE, match_parameters
from sparsekit.modifiers.pruning.masked import MaskedWeights, Pruning
from sparsekit.sparsity.planned import PlannedZeros
from sparsekit.sparsity.prunable import prunable
from sparsekit.sparsity.pruned import FEW_ZEROS, is_pruned


@dataclass(kw_only=True)
class ConstantPruning(Pruning):
    """Masks every weight that is zero at the start of its window.

    params: the weights, see `match_parameters`.

    A window that starts later than epoch 0 includes the zeros that other modifiers have made by
    then. Raises ConfigError where fewer than 1 % of the weights are zero.
    """

    adds_zeros: ClassVar[bool] = False

    params: str | list[str] = ALL_PRUNABLE

    def final_from(self, num_epochs: float) -> float:
        return self.start

    def planned_zeros(
        self, model: nn.Module, epoch: float, initial: float
    ) -> Sequence[PlannedZeros]:
        if not self.active(epoch):
            return []
        names = match_parameters(model, self.params)
        # It refuses weights with fewer.
        least = PlannedZeros(names=list(names), share=FEW_ZEROS)
        if not initial or self.start > 0:
            return [least]
        layers = (f"{layer}.weight" for layer in prunable(model))
        return [least, *(PlannedZeros(names=[n], share=initial) for n in layers if n in names)]

    def attach(self, model: nn.Module) -> None:
        self._masked = MaskedWeights(match_parameters(model, self.params))
        if self.start == 0:
            self._take_mask()

    def _take_mask(self) -> None:
        zeros, total = self._masked.zeros(), self._masked.size()
        if not is_pruned(zeros / max(total, 1)):
            raise ConfigError(
                [
                    f"params {self.params!r}: {zeros} of {total} weights are zero, so there is no "
                    "sparsity to keep; choose a pruned student, prune it at load with "
                    "student.sparsity=0.8, or remove the modifier"
                ]
            )
        self._masked.set_from_zeros()

    def resume(self, masks: Mapping[str, Tensor]) -> None:
        super().resume(masks)
        # None before a window that starts later.
        if self._resumed:
            self._masked.set(self._resumed)

    def update(self, epoch: float) -> None:
        on = self.active(epoch)
        if on and not self._masked.masks:
            self._take_mask()
        self._on = on
