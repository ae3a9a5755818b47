"""AC/DC: training alternates between dense and pruned phases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsekit.errors import ConfigError
from sparsekit.modifiers.base import ALL_PRUNABLE, match_parameters
from sparsekit.modifiers.epochs import EPSILON, whole_periods
from sparsekit.modifiers.pruning.masked import (
    MaskedWeights,
    Pruning,
    mask_type_problems,
    undivided,
    zeros_of_shares,
)
from sparsekit.sparsity.masks import named_masks, parse_mask_type
from sparsekit.sparsity.planned import PlannedZeros


@dataclass(kw_only=True)
class ACDCPruning(Pruning):
    """Alternating compressed and decompressed training (Peste et al., 2021).

    Phases of `update_frequency` epochs alternate from `start` on, beginning with a dense one. A
    pruned phase keeps the weights of largest magnitude at its start; in a dense phase pruned
    weights may grow back.

    compression_sparsity: the share of zeros in a pruned phase.
    params: the weights, see `match_parameters`.
    global_sparsity: rank magnitudes over all layers together instead of in each layer.
    leave_enabled: keep the last mask after `end`.
    mask_type: unstructured, block4, [rows, columns], or N:M (N of M consecutive weights stay).
    """

    compression_sparsity: float
    update_frequency: float
    params: str | list[str] = ALL_PRUNABLE
    global_sparsity: bool = True
    leave_enabled: bool = True
    mask_type: str | list[int] = "unstructured"

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not 0 <= self.compression_sparsity <= 1:
            found.append(
                f"compression_sparsity is {self.compression_sparsity:g}; set a share between 0 "
                "and 1"
            )
        if not self.update_frequency > 0:
            found.append(
                f"update_frequency {self.update_frequency:g} must be more than 0 epochs, the "
                "length of a phase"
            )
        elif self.end is None:
            found.append("end is null; set the epoch at which the last pruned phase ends")
        elif self._phases() % 2:
            last = self.start + (self._phases() - 1) * self.update_frequency
            found.append(
                f"its last phase, from epoch {last:g} to {self.end:g}, is dense; set end={last:g} "
                f"or {last + 2 * self.update_frequency:g}, so that it ends pruned"
            )
        targets = {"compression_sparsity": self.compression_sparsity}
        return found + mask_type_problems(self.mask_type, targets)

    def planned_sparsity(self, epoch: float) -> dict[str, float | None]:
        patterns = [self.params] if isinstance(self.params, str) else self.params
        if epoch < self.start or (not self.leave_enabled and not self.active(epoch)):
            return dict.fromkeys(patterns)
        # A dense phase has no mask.
        pruned = self._phase_at(epoch) % 2
        return dict.fromkeys(patterns, self.compression_sparsity if pruned else None)

    def planned_zeros(
        self, model: nn.Module, epoch: float, initial: float
    ) -> Sequence[PlannedZeros]:
        if not self.leave_enabled:
            return []
        shares, pattern = self.planned_sparsity(epoch), parse_mask_type(self.mask_type)
        return zeros_of_shares(model, shares, pattern, self.global_sparsity)

    def final_from(self, num_epochs: float) -> float:
        # The last phase is pruned.
        if not self.leave_enabled:
            return super().final_from(num_epochs)
        return self.start + (self._phases() - 1) * self.update_frequency

    def _phases(self) -> int:
        assert self.end is not None
        return math.ceil((self.end - self.start) / self.update_frequency - EPSILON)

    def attach(self, model: nn.Module) -> None:
        self._pattern = parse_mask_type(self.mask_type)
        self._masked = MaskedWeights(match_parameters(model, self.params))
        self._phase: int | None = None
        if problems := undivided(self.mask_type, self._pattern, self._masked.weights):
            raise ConfigError(problems)

    def resume(self, masks: Mapping[str, Tensor]) -> None:
        super().resume(masks)
        self._phase = None

    def update(self, epoch: float) -> None:
        self._on = epoch >= self.start and (self.leave_enabled or self.active(epoch))
        if not self._on:
            return
        phase = self._phase_at(epoch)
        if phase != self._phase:
            self._enter(phase)
            self._phase = phase

    def _phase_at(self, epoch: float) -> int:
        phase = whole_periods(epoch - self.start, self.update_frequency)
        return min(phase, self._phases() - 1)

    @torch.no_grad()
    def _enter(self, phase: int) -> None:
        resumed, self._resumed = self._resumed, None
        if phase % 2 == 0:
            self._masked.set({})
            return
        if resumed:
            # The checkpoint was saved in this phase: in a dense one there are no masks.
            self._masked.set(resumed)
            return
        scores = {name: weight.detach().abs() for name, weight in self._masked.weights.items()}
        shares = dict.fromkeys(scores, self.compression_sparsity)
        self._masked.set(
            named_masks(scores, shares, self._pattern, ranks_globally=self.global_sparsity)
        )
        self._masked.apply()
