"""Distillation of hidden states: layers of the student learn the outputs of the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsekit.errors import ConfigError, UserError
from sparsekit.modifiers.distillation.live import LiveDistillation
from sparsekit.modifiers.distillation.pairing import same_depth
from sparsekit.modifiers.distillation.recording import PairedOutputs, device_of
from sparsekit.modifiers.names import unused_name
from sparsekit.shape.blocks import blocks

PROJECTIONS = "layer_projections"
LAYERS = "__LAYERS__"


def feature_distance(
    student: Tensor, teacher: Tensor, mask: Tensor | None, normalize: bool, epsilon: float
) -> Tensor:
    """The mean squared error between two outputs, a scalar.

    student, teacher: [batch, ..., width].
    mask: [batch, sequence], 0 at padding, which is left out of outputs [batch, sequence, width].
    normalize: divide by the teacher's mean square plus `epsilon`.
    """
    student, teacher = student.float(), teacher.float()
    if mask is not None and student.ndim == 3:
        student, teacher = student[mask.bool()], teacher[mask.bool()]
    distance = F.mse_loss(student, teacher)
    return distance / (teacher.square().mean() + epsilon) if normalize else distance


@dataclass(kw_only=True)
class PerLayerDistillation(LiveDistillation):
    """Adds `gain` times the distance between layers of the student and of the teacher to the loss.

    student_layer_names, teacher_layer_names: modules, paired in order; one list is used for both
        models; null for both pairs all Linear layers. `__LAYERS__` alone in student_layer_names
        pairs the hidden states after each layer with those at the same depth of the teacher.
    project_features: multiply the student's outputs by a trained matrix of the teacher's width. It
        starts as the identity where the widths are equal, and is not part of the saved model.
    normalize, epsilon: divide each distance by the teacher's mean square + epsilon.

    The teacher runs at every step, on the student's tokens: both must share a vocabulary. Logs
    `layer_loss`, the sum of the distances. SparseML's PerLayerDistillationModifier, except that
    padding is left out.
    """

    logged_as: ClassVar[str] = "layer_loss"

    gain: float = 1.5
    student_layer_names: list[str] | None = None
    teacher_layer_names: list[str] | None = None
    project_features: bool = True
    normalize: bool = True
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pairs = list[tuple[str, str]]()
        self._projections: str | None = None

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not self.epsilon > 0:
            found.append(f"epsilon {self.epsilon:g} must be more than 0")
        student, teacher = self.student_layer_names, self.teacher_layer_names
        if LAYERS in (student or []) + (teacher or []) and (student != [LAYERS] or teacher):
            found.append(
                f"{LAYERS} stands alone in student_layer_names, and teacher_layer_names null"
            )
        if student is not None and teacher is not None and len(student) != len(teacher):
            found.append(
                f"{len(student)} student_layer_names for {len(teacher)} teacher_layer_names; "
                "they are paired in order, so name equally many"
            )
        return found

    def attach(self, model: nn.Module) -> None:
        self._model = model
        if not self.needs_teacher:
            return
        self._pairs = self._pair(model)
        self._recorded = PairedOutputs(model, self._teacher, self._pairs)
        widths = self._recorded.widths()
        problems = []
        projections = nn.ParameterDict()
        for (student, teacher), (width, teacher_width) in zip(self._pairs, widths, strict=True):
            if self.project_features:
                # The name of a parameter cannot contain the dots of a module's name.
                projections[student.replace(".", "/")] = _projection(width, teacher_width)
            elif width != teacher_width:
                problems.append(
                    f"{student} has width {width} and the teacher's {teacher} {teacher_width}; set "
                    "project_features=true"
                )
        if problems:
            raise ConfigError(problems)
        if self.project_features:
            self._projections = unused_name(model, PROJECTIONS)
            setattr(model, self._projections, projections.to(device_of(model)))

    def _pair(self, model: nn.Module) -> list[tuple[str, str]]:
        if self.student_layer_names == [LAYERS]:
            return _pair_layers(model, self._teacher)
        students = self.student_layer_names or self.teacher_layer_names or _linears(model)
        teachers = self.teacher_layer_names or self.student_layer_names or _linears(self._teacher)
        problems = [
            f"the {who} has no layer {name!r}; it has layers such as {', '.join(_linears(of)[:3])}"
            for who, of, names in (
                ("student", model, students),
                ("teacher", self._teacher, teachers),
            )
            for name in names
            if name not in dict(of.named_modules())
        ]
        if len(students) != len(teachers):
            problems.append(
                f"the student has {len(students)} Linear layers, the teacher {len(teachers)}; name "
                "the pairs in student_layer_names and teacher_layer_names"
            )
        if problems:
            raise ConfigError(problems)
        return list(zip(students, teachers, strict=True))

    def distance(self, recorded: PairedOutputs) -> Tensor:
        total = torch.zeros((), device=device_of(self._model))
        for (student, _), (value, target) in zip(self._pairs, recorded.outputs(), strict=True):
            if self._projections is not None:
                matrix = getattr(self._model, self._projections)[student.replace(".", "/")]
                value = F.linear(value.float(), matrix)
            total = total + feature_distance(
                value, target, recorded.mask, self.normalize, self.epsilon
            )
        return total

    @property
    def note(self) -> str:
        if self.student_layer_names != [LAYERS] or not self._pairs:
            return f"{len(self._pairs)} pairs" if self._pairs else ""
        # A student with fewer layers skips some of the teacher's; they are counted from 0.
        taught = ", ".join(teacher.rpartition(".")[2] for _, teacher in self._pairs)
        return f"{len(self._pairs)} layers, from the teacher's {taught}"

    def detach(self, model: nn.Module) -> None:
        super().detach(model)
        if self._projections is not None:
            delattr(model, self._projections)
            self._projections = None


def _pair_layers(student: nn.Module, teacher: nn.Module) -> list[tuple[str, str]]:
    """Each layer of the student with the one at the same depth of the teacher."""
    assert isinstance(student, PreTrainedModel) and isinstance(teacher, PreTrainedModel)
    try:
        own, theirs = ([block.name for block in blocks(model)] for model in (student, teacher))
    except UserError as error:
        raise ConfigError([f"student_layer_names: {LAYERS}: {error}"]) from error
    return same_depth(own, theirs)


def _projection(width: int, teacher_width: int) -> nn.Parameter:
    if width == teacher_width:
        return nn.Parameter(torch.eye(width))
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(teacher_width, width)))


def _linears(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
