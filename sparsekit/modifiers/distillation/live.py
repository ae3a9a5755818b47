"""The base class of modifiers that compare modules of the student with those of a live teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.distillation.recording import PairedOutputs
from sparsekit.modifiers.loss_mean import LossMean, weighted


@dataclass(kw_only=True)
class LiveDistillation(Modifier):
    """Adds `gain` times a distance from outputs of the teacher, which runs at every step.

    The teacher reads the student's tokens: both must share a vocabulary. A subclass sets
    `self._recorded` in `attach`, and compares what that recorded in `distance`.

    logged_as: the name under which the distance is logged.
    """

    kind: ClassVar[str] = "distillation"
    takes_teacher: ClassVar[Literal["logits", "model"] | None] = "model"
    logged_as: ClassVar[str]

    gain: float = 1.0

    def __post_init__(self) -> None:
        self._recorded: PairedOutputs | None = None
        self._distance = LossMean()

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not self.gain >= 0:
            found.append(f"gain {self.gain:g} must be 0 or more")
        return found

    @property
    def needs_teacher(self) -> bool:
        return self.gain > 0

    @property
    def reads_all_tokens(self) -> bool:
        return self._recorded is not None and self._recorded.on

    def use_teacher(self, teacher: nn.Module) -> None:
        """Take the teacher, which has the student's vocabulary, before `attach`."""
        self._teacher = teacher.eval().requires_grad_(False)

    def update(self, epoch: float) -> None:
        # Not before: other modifiers may replace modules after this one is attached.
        if self._recorded is not None:
            self._recorded.switch(self.active(epoch))

    def distance(self, recorded: PairedOutputs) -> Tensor:
        """The distance of the student's recorded outputs from the teacher's, a scalar."""
        raise NotImplementedError

    def loss(self, loss: Tensor, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        if self._recorded is None or not self._recorded.on:
            return loss
        distance = self.distance(self._recorded)
        self._recorded.clear()
        self._distance.add(weighted(distance, inputs.get("loss_weight", 1.0)))
        return loss + self.gain * distance

    def logs(self) -> Mapping[str, float]:
        mean = self._distance.take()
        return {} if mean is None else {self.logged_as: mean}

    def stop(self) -> None:
        if self._recorded is not None:
            self._recorded.switch(False)

    def detach(self, model: nn.Module) -> None:
        self.stop()
