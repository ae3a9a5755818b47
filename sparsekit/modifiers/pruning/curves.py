"""How much of the pruning is done: functions from progress to a share, both from 0 to 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsekit.modifiers.epochs import EPSILON, whole_periods


def linear(progress: float) -> float:
    """Grows evenly from 0 to 1."""
    return progress


def cubic(progress: float) -> float:
    """Grows fast at first, from 0 to 1 (Zhu and Gupta, 2017)."""
    return 1 - (1 - progress) ** 3


def inverse_cubic(progress: float) -> float:
    """Grows slowly at first, from 0 to 1."""
    return 1 - math.cbrt(1 - progress)


INTER_FUNCTIONS = {"linear": linear, "cubic": cubic, "inverse_cubic": inverse_cubic}


@dataclass(frozen=True)
class Curve:
    """The share that is done, from 0 at the epoch `start` to 1 at `end`, in steps.

    frequency: epochs between two steps; -1: it grows at every step of training.
    function: a key of INTER_FUNCTIONS.
    """

    start: float
    end: float
    frequency: float
    function: str

    def last_step(self, epoch: float) -> float:
        """The epoch of the latest step: some periods after the start, or the end."""
        if epoch >= self.end - EPSILON:
            return self.end
        if self.frequency == -1:
            return epoch
        periods = whole_periods(epoch - self.start, self.frequency)
        return min(self.start + periods * self.frequency, self.end)

    def done(self, epoch: float) -> float:
        """The share that is done at `epoch`."""
        progress = (self.last_step(epoch) - self.start) / (self.end - self.start)
        return INTER_FUNCTIONS[self.function](min(max(progress, 0.0), 1.0))
