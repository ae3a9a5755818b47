"""Knowledge distillation: the student learns the teacher's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.loss_mean import LossMean, weighted
from sparsekit.tasks.base import Task


@dataclass(kw_only=True)
class Distillation(Modifier):
    """Mixes the loss: (1 - hardness) * task + hardness * distance from the teacher's outputs.

    The task says how the outputs are compared: logits of classes by their KL divergence. The batch
    holds the teacher's as `teacher_<key>` for each of `distill_output_keys`; null: for every output
    of the task. Logs `kd_loss`, the mean distance. Without a teacher a recipe leaves it out.
    """

    kind: ClassVar[str] = "distillation"
    takes_teacher: ClassVar[Literal["logits", "model"] | None] = "logits"

    hardness: float
    temperature: float = 2.0
    distill_output_keys: list[str] | None = None

    def __post_init__(self) -> None:
        self._kd_loss = LossMean()

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not 0 <= self.hardness <= 1:
            found.append(f"hardness {self.hardness} lies outside of [0, 1]")
        if not self.temperature > 0:
            found.append(f"temperature {self.temperature} must be more than 0")
        if self.distill_output_keys is not None and not self.distill_output_keys:
            found.append(f"distill_output_keys {self.distill_output_keys} names no output")
        return found

    def task_problems(self, task: Task) -> list[str]:
        if unknown := [key for key in self.distill_output_keys or [] if key not in task.outputs]:
            return [
                f"distill_output_keys {unknown} must be chosen from {', '.join(task.outputs)}, the "
                f"outputs of {task.name}"
            ]
        return []

    def use_task(self, task: Task) -> None:
        self._task = task

    @property
    def needs_teacher(self) -> bool:
        # With hardness 0 the loss is the task's.
        return self.hardness > 0

    def replaces_task_loss(self, num_epochs: float) -> bool:
        to_the_end = self.end is None or self.end >= num_epochs
        return self.hardness == 1 and self.start == 0 and to_the_end

    def update(self, epoch: float) -> None:
        self._on = self.active(epoch) and self.needs_teacher

    def loss(self, loss: Tensor, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        if not self._on:
            return loss
        kd = sum(
            (
                self._task.distance(key, outputs, inputs, self.temperature)
                for key in self.distill_output_keys or self._task.outputs
            ),
            start=loss.new_zeros(()),
        )
        # The batch may be a part of an optimizer step's.
        self._kd_loss.add(weighted(kd, inputs.get("loss_weight", 1.0)))
        return (1 - self.hardness) * loss + self.hardness * kd

    def logs(self) -> Mapping[str, float]:
        mean = self._kd_loss.take()
        return {} if mean is None else {"kd_loss": mean}
