"""Learning rate and weight decay: values that the trainer reads at each epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsekit.modifiers.base import Modifier

LR_FUNCTIONS = ("linear", "cosine", "cyclic_linear")


def linear(progress: float, init_lr: float, final_lr: float) -> float:
    """A straight line from `init_lr` at progress 0 to `final_lr` at progress 1."""
    return init_lr + (final_lr - init_lr) * progress


def cosine(progress: float, init_lr: float, final_lr: float) -> float:
    """Half a cosine wave from `init_lr` at progress 0 to `final_lr` at progress 1."""
    return final_lr + (init_lr - final_lr) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(kw_only=True)
class LearningRateFunction(Modifier):
    """The learning rate as a function of the epoch, SparseML's LearningRateFunctionModifier.

    `lr_func` is linear, cosine or cyclic_linear; the last falls from `init_lr` to `final_lr`
    once in every `cycle_epochs`. Outside of the window the learning rate stays as it was set.
    """

    init_lr: float
    final_lr: float
    lr_func: str = "linear"
    cycle_epochs: float = 1.0

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if self.lr_func not in LR_FUNCTIONS:
            found.append(f"lr_func {self.lr_func!r} is not one of {', '.join(LR_FUNCTIONS)}")
        for name in ("init_lr", "final_lr"):
            if not getattr(self, name) >= 0:
                found.append(f"{name} {getattr(self, name)} must be 0 or more")
        if self.cycle_epochs <= 0:
            found.append(f"cycle_epochs {self.cycle_epochs} must be more than 0")
        return found

    def lr(self, epoch: float, num_epochs: float, steps_per_epoch: float) -> float:
        """The learning rate at `epoch`, which lies in the window, of a run of that length."""
        end = num_epochs if self.end is None else self.end
        since, length = epoch - self.start, end - self.start
        if self.lr_func == "cyclic_linear":
            # The epsilon keeps 13.999... of a cycle's 14 steps from counting as the old cycle.
            cycle = math.floor(since / self.cycle_epochs + 1e-9)
            since = max(0.0, since - cycle * self.cycle_epochs)
            length = min(self.cycle_epochs, length - cycle * self.cycle_epochs)
            # SparseML reaches final_lr at the last step of a cycle, not one step past it.
            return linear(since / max(length - 1 / steps_per_epoch, 1e-9), *self._ends)
        function = linear if self.lr_func == "linear" else cosine
        return function(since / length, *self._ends)

    @property
    def _ends(self) -> tuple[float, float]:
        return self.init_lr, self.final_lr


@dataclass(kw_only=True)
class SetWeightDecay(Modifier):
    """The optimizer's weight decay, for every parameter group as SparseML sets it."""

    weight_decay: float

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not self.weight_decay >= 0:
            found.append(f"weight_decay {self.weight_decay} must be 0 or more")
        return found
