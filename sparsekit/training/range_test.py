"""What a learning rate range test shows: its smoothed losses, and the rate that they suggest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# The weight of the past in the smoothed loss: about the last 10 steps.
MEMORY = 0.9
# Steps after which the smoothed loss is that of the model as it starts, not of one batch.
_SETTLED = 10
# The loss has diverged where it is this many times the lowest.
DIVERGED = 4.0
# Before the rate with the lowest loss the loss falls fastest about a decade lower.
BELOW_LOWEST = 10.0


@dataclass(frozen=True)
class RangeTest:
    """The learning rate and the smoothed loss of each step, up to the step that diverged."""

    rates: list[float]
    losses: list[float]

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss was lowest."""
        return self.rates[self.losses.index(min(self.losses))]

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss fell fastest, per decade of the rate."""
        end = max(self.losses.index(min(self.losses)), 1)
        slopes = [
            (self.losses[i + 1] - self.losses[i]) / math.log10(self.rates[i + 1] / self.rates[i])
            for i in range(end)
        ]
        return self.rates[slopes.index(min(slopes))]

    @property
    def suggested(self) -> float:
        """A rate to start from: a tenth of `lowest`, or `steepest` where that is lower."""
        return min(self.steepest, self.lowest / BELOW_LOWEST)

    @property
    def falls(self) -> bool:
        """Whether the loss fell at all: by a twentieth, noise aside."""
        # The first steps of a loss that diverges at once are no loss to fall from.
        if self.lowest == self.rates[0]:
            return False
        return min(self.losses) < 0.95 * self.losses[min(_SETTLED, len(self.losses)) - 1]


def smoothed(rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """The range test of the logged losses: their bias-corrected moving average, until it diverges.

    >>> smoothed([1e-5, 1e-4, 1e-3], [1.0, 1.0, 1.0]).losses
    [1.0, 1.0, 1.0]
    """
    found: list[float] = []
    average = 0.0
    for step, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            break
        average = MEMORY * average + (1 - MEMORY) * loss
        found.append(average / (1 - MEMORY**step))
        if found[-1] > DIVERGED * min(found):
            break
    return RangeTest(list(rates[: len(found)]), found)


class LossRecorder(TrainerCallback):
    """Keeps the rate and the loss of each step, and ends training once the loss has diverged."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep a step's values."""
        if logs is None or "loss" not in logs or "learning_rate" not in logs:
            return
        self.rates.append(float(logs["learning_rate"]))
        self.losses.append(float(logs["loss"]))
        if len(smoothed(self.rates, self.losses).losses) < len(self.losses):
            control.should_training_stop = True
