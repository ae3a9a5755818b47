"""Knowledge distillation: the student learns the teacher's softened logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.loss_mean import LossMean

OUTPUT_KEYS = ("logits",)


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The mean over rows of T^2 * KL(teacher || student) of the softened distributions, a scalar.

    student, teacher: logits [rows, labels].
    temperature: T, which divides the logits. The factor T^2 keeps the size of the gradient
        independent of it (Hinton et al., 2015, section 2).
    """
    divergence = F.kl_div(
        F.log_softmax(student.float() / temperature, dim=-1),
        F.log_softmax(teacher.float() / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return divergence * temperature**2 / (student.numel() / student.shape[-1])


@dataclass(kw_only=True)
class Distillation(Modifier):
    """Mixes the loss: (1 - hardness) * task + hardness * KL divergence from the teacher.

    The batch holds the teacher's outputs as `teacher_<key>` for each of `distill_output_keys`.
    Logs `kd_loss`, the mean divergence. Without a teacher a recipe leaves it out.
    """

    kind: ClassVar[str] = "distillation"
    takes_teacher: ClassVar[Literal["logits", "model"] | None] = "logits"

    hardness: float
    temperature: float = 2.0
    distill_output_keys: list[str] = field(default_factory=lambda: list(OUTPUT_KEYS))

    def __post_init__(self) -> None:
        self._kd_loss = LossMean()

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not 0 <= self.hardness <= 1:
            found.append(f"hardness {self.hardness} lies outside of [0, 1]")
        if not self.temperature > 0:
            found.append(f"temperature {self.temperature} must be more than 0")
        unknown = [key for key in self.distill_output_keys if key not in OUTPUT_KEYS]
        if unknown or not self.distill_output_keys:
            found.append(
                f"distill_output_keys {self.distill_output_keys} must be chosen from "
                f"{', '.join(OUTPUT_KEYS)}"
            )
        return found

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
                kl_divergence(outputs[key], inputs[f"teacher_{key}"], self.temperature)
                for key in self.distill_output_keys
            ),
            start=loss.new_zeros(()),
        )
        self._kd_loss.add(kd)
        return (1 - self.hardness) * loss + self.hardness * kd

    def logs(self) -> Mapping[str, float]:
        mean = self._kd_loss.take()
        return {} if mean is None else {"kd_loss": mean}
