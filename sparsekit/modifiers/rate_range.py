"""A learning rate that grows from tiny to too large, to see where the loss falls and diverges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsekit.modifiers.optimizer import LearningRateSchedule


@dataclass(kw_only=True)
class LearningRateRange(LearningRateSchedule):
    """The learning rate grows exponentially over the window (Smith, 2017)."""

    rate_field: ClassVar[str] = "lowest"

    lowest: float
    highest: float

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not 0 < self.lowest < self.highest:
            found.append(
                f"lowest {self.lowest:g} must be above 0 and below highest {self.highest:g}"
            )
        return found

    def lr(self, epoch: float, num_epochs: float, steps_per_epoch: float) -> float:
        end = num_epochs if self.end is None else self.end
        # The last step, not the one after it, has the highest rate.
        length = max(end - self.start - 1 / steps_per_epoch, 1e-9)
        progress = min(1.0, (epoch - self.start) / length)
        return float(self.lowest * (self.highest / self.lowest) ** progress)
