"""Gradual pruning: sparsity grows along a curve while the model trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsekit.errors import ConfigError
from sparsekit.modifiers.base import ALL_PRUNABLE, match_parameters
from sparsekit.modifiers.epochs import EPSILON
from sparsekit.modifiers.pruning.curves import INTER_FUNCTIONS, Curve
from sparsekit.modifiers.pruning.masked import (
    MaskedWeights,
    Pruning,
    mask_type_problems,
    undivided,
    zeros_of_shares,
)
from sparsekit.sparsity.masks import NOfM, named_masks, parse_mask_type
from sparsekit.sparsity.planned import PlannedZeros

FROM_PARAM = "__FROM_PARAM__"


@dataclass(kw_only=True)
class GradualPruning(Pruning):
    """Base class of gradual pruning: the curve, the masks, the groups of weights.

    params: the weights, see `match_parameters`; empty if `final_sparsity` is a map.
    init_sparsity: the sparsity at `start`, or `__FROM_PARAM__` for each weight's own.
    final_sparsity: the sparsity at `end`, or a map from sparsities to the params that reach them.
    update_frequency: epochs between two masks; -1 makes one before every step.
    inter_func: linear, cubic or inverse_cubic.
    mask_type: unstructured, block4, [rows, columns], or N:M (N of M consecutive weights stay),
        which is applied at once.
    leave_enabled: keep the mask after `end`; otherwise pruned weights may grow back.

    Masks nest: a weight that was pruned stays pruned. Targets are exact to one weight (one block).
    The masks are the only state, so a resumed run continues from its checkpoint.
    """

    init_sparsity: float | str
    final_sparsity: float | dict[str, list[str]]
    params: str | list[str] = field(default_factory=list)
    update_frequency: float = -1.0
    inter_func: str = "cubic"
    mask_type: str | list[int] = "unstructured"
    leave_enabled: bool = True

    @property
    def ranks_globally(self) -> bool:
        """Whether weights are ranked over all layers together instead of in each layer."""
        return False

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if self.end is None:
            found.append("end is null; set the epoch at which final_sparsity is reached")
        if self.inter_func not in INTER_FUNCTIONS:
            found.append(
                f"inter_func {self.inter_func!r} is not one of {', '.join(INTER_FUNCTIONS)}"
            )
        if self.update_frequency <= 0 and self.update_frequency != -1:
            found.append(
                f"update_frequency {self.update_frequency:g} must be more than 0 epochs, or -1 for "
                "every step"
            )
        if isinstance(self.final_sparsity, dict) == bool(self.params):
            found.append(
                f"params {self.params!r} and final_sparsity {self.final_sparsity!r}: name the "
                f"params in one of them ({ALL_PRUNABLE} for all)"
            )
        finals = {f"final_sparsity of {what}": share for what, share in self._finals().items()}
        return found + self._sparsity_problems(finals) + mask_type_problems(self.mask_type, finals)

    def _sparsity_problems(self, finals: Mapping[str, float]) -> list[str]:
        found = []
        named: dict[str, float | str] = {**finals}
        if self.init_sparsity != FROM_PARAM:
            named["init_sparsity"] = self.init_sparsity
        for name, value in named.items():
            share = _share(value)
            if not 0 <= share <= 1:
                found.append(f"{name} is {value!r}; set a share between 0 and 1")
            elif isinstance(self.init_sparsity, int | float) and share < self.init_sparsity:
                found.append(
                    f"{name} {share:g} is below init_sparsity {self.init_sparsity:g}; pruned "
                    "weights do not grow back, so set init_sparsity lower"
                )
        return found

    def _finals(self) -> dict[str, float]:
        # The final sparsity of each pattern.
        if isinstance(self.final_sparsity, dict):
            # The sparsities are keys of a config, which are strings.
            return {
                pattern: _share(share)
                for share, patterns in self.final_sparsity.items()
                for pattern in patterns
            }
        patterns = [self.params] if isinstance(self.params, str) else self.params
        return dict.fromkeys(patterns, self.final_sparsity)

    def attach(self, model: nn.Module) -> None:
        self._pattern = parse_mask_type(self.mask_type)
        self._final: dict[str, float] = {}
        weights: dict[str, nn.Parameter] = {}
        problems = []
        for pattern, share in self._finals().items():
            try:
                matched = match_parameters(model, [pattern])
            except ConfigError as error:
                problems += error.problems
                continue
            problems += [
                f"{name} has final_sparsity {self._final[name]:g} and, through {pattern!r}, "
                f"{share:g}; name it once"
                for name in matched
                if self._final.get(name, share) != share
            ]
            weights |= matched
            self._final |= dict.fromkeys(matched, share)
        problems += undivided(self.mask_type, self._pattern, weights)
        if problems:
            raise ConfigError(problems)
        self._masked = MaskedWeights(weights)
        self._reached: float | None = None
        self._has_trained = False
        self._init = self._initial()

    def _initial(self) -> dict[str, float]:
        if self.init_sparsity != FROM_PARAM:
            return dict.fromkeys(self._final, float(self.init_sparsity))
        return {
            name: int((weight == 0).sum()) / weight.numel()
            for name, weight in self._masked.weights.items()
        }

    def resume(self, masks: Mapping[str, Tensor]) -> None:
        super().resume(masks)
        self._reached = None

    @property
    def mask_epochs(self) -> float:
        if self._reached is not None and self._reached == self.end:
            return math.inf
        return max(self.update_frequency, 0.0)

    def update(self, epoch: float) -> None:
        assert self.end is not None
        self._on = epoch >= self.start and (self.leave_enabled or self.active(epoch))
        if not self._on and epoch < self.end:
            return
        update = self._curve.last_step(epoch)
        if update == self._reached:
            return
        # A process that resumes past the window has the weights that were let go at its end,
        # unless its checkpoint has masks: then the window ends with this step.
        if self._on or self._has_trained or self._resumed or epoch <= self.end + EPSILON:
            self._prune(update)
        self._reached = update

    def constrain(self) -> None:
        super().constrain()
        self._has_trained = True

    @property
    def _curve(self) -> Curve:
        assert self.end is not None
        return Curve(self.start, self.end, self.update_frequency, self.inter_func)

    def planned_sparsity(self, epoch: float) -> dict[str, float | None]:
        finals = {pattern: float(share) for pattern, share in self._finals().items()}
        if epoch < self.start or (not self.leave_enabled and not self.active(epoch)):
            return dict.fromkeys(finals)
        done = self._curve.done(epoch)
        if self.init_sparsity == FROM_PARAM:
            return {name: share if done == 1 else None for name, share in finals.items()}
        init = float(self.init_sparsity)
        return {name: init * (1 - done) + share * done for name, share in finals.items()}

    def planned_zeros(
        self, model: nn.Module, epoch: float, initial: float
    ) -> Sequence[PlannedZeros]:
        if not self.leave_enabled:
            return []
        shares, pattern = self.planned_sparsity(epoch), parse_mask_type(self.mask_type)
        return zeros_of_shares(model, shares, pattern, self.ranks_globally)

    @torch.no_grad()
    def _prune(self, epoch: float) -> None:
        done = self._curve.done(epoch)
        targets = {
            name: self._init[name] * (1 - done) + final * done
            for name, final in self._final.items()
        }
        kept = {name: weight != 0 for name, weight in self._masked.weights.items()}
        found, self._resumed = kept if self._resumed is None else self._resumed, None
        if self._already(targets, found):
            # The checkpoint was saved after this update, with its masks.
            self._masked.set(found)
            return
        self.reach(targets, kept)

    def reach(self, targets: Mapping[str, float], kept: Mapping[str, Tensor]) -> None:
        """Prune each weight, of which `kept` is left, to its target sparsity, and set the masks."""
        masks = self._masks(targets, kept)
        self.compensate(masks)
        self._masked.set(masks)
        self._masked.apply()

    def _already(self, targets: Mapping[str, float], found: Mapping[str, Tensor]) -> bool:
        # Only the first update of a process can find masks that it did not make itself.
        if self._reached is not None or found.keys() != targets.keys():
            return False
        pruned = not all(bool(mask.all()) for mask in found.values())
        return pruned and self.suffices(targets, found)

    def suffices(self, targets: Mapping[str, float], kept: Mapping[str, Tensor]) -> bool:
        """Whether the zeros of `kept` reach the targets, to the nearest whole block.

        Those of a pattern N:M never do: they may be others than the pattern's.
        """
        if isinstance(self._pattern, NOfM):
            return False
        size = self._pattern.rows * self._pattern.columns
        wanted = {name: targets[name] * (mask.numel() // size) for name, mask in kept.items()}
        found = {name: int((~mask).sum()) for name, mask in kept.items()}
        if self.ranks_globally:
            return sum(found.values()) >= round(sum(wanted.values())) * size
        return all(found[name] >= round(blocks) * size for name, blocks in wanted.items())

    def _masks(self, targets: Mapping[str, float], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return named_masks(
            self.scores(), targets, self._pattern, kept, ranks_globally=self.ranks_globally
        )

    def scores(self) -> dict[str, Tensor]:
        """The importance of each weight, by parameter name, in its shape; the lowest go first."""
        return {name: weight.detach().abs() for name, weight in self._masked.weights.items()}

    def compensate(self, masks: Mapping[str, Tensor]) -> None:
        """Adjust the remaining weights before those that `masks` newly prunes become zero."""


def _share(text: float | str) -> float:
    # NaN fails every comparison with the limits.
    try:
        return float(text)
    except ValueError:
        return math.nan
