"""Outputs of paired modules of a student and its teacher, recorded on each batch of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.errors import UserError
from sparsekit.tasks.inputs import inputs_of


class PairedOutputs:
    """Records what named modules of both models return, while it is on.

    The teacher runs on the student's tokens after each forward pass of the student in training, so
    both must share a vocabulary. Several of these on one student run the teacher once.

    Args:
        student, teacher: the models; the teacher is moved to the student's device.
        pairs: the names of modules, the student's with the teacher's.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, pairs: Sequence[tuple[str, str]]
    ) -> None:
        self.pairs = list(pairs)
        self.mask: Tensor | None = None  # The batch's attention_mask, [batch, sequence].
        self._student, self._teacher = student, teacher
        self._hooks = list[Any]()
        self._of_student: dict[str, Tensor] = {}
        self._without_gradients: set[str] = set()
        self._of_teacher: dict[str, Tensor] = {}

    @property
    def on(self) -> bool:
        """Whether outputs are recorded."""
        return bool(self._hooks)

    def switch(self, on: bool) -> None:
        """Begin or stop to record. Modules that were replaced before it begins are recorded."""
        if on == self.on:
            return
        if on:
            self._hook()
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.clear()

    def widths(self) -> list[tuple[int, int]]:
        """The last dimension of each pair's outputs, the student's and the teacher's."""
        was_on = self.on
        self.switch(True)
        ids = torch.zeros((1, 2), dtype=torch.long)
        with torch.no_grad():
            self._student(input_ids=ids.to(device_of(self._student)))
            self._teacher(input_ids=ids.to(device_of(self._teacher)))
        found = [(own.shape[-1], theirs.shape[-1]) for own, theirs in self.outputs()]
        self.clear()
        self.switch(was_on)
        return found

    def outputs(self) -> list[tuple[Tensor, Tensor]]:
        """The outputs of the last batch, of each pair: the student's and the teacher's."""
        return [(self._of_student[own], self._of_teacher[theirs]) for own, theirs in self.pairs]

    def clear(self) -> None:
        """Forget the last batch."""
        self._of_student.clear()
        self._without_gradients.clear()
        self._of_teacher.clear()

    def _hook(self) -> None:
        self._hooks.append(self._student.register_forward_pre_hook(lambda *_: self.clear()))
        for model, names, outputs, without in (
            (self._student, {a for a, _ in self.pairs}, self._of_student, self._without_gradients),
            (self._teacher, {b for _, b in self.pairs}, self._of_teacher, set[str]()),
        ):
            for name in sorted(names):
                hook = _recorder(outputs, without, name)
                self._hooks.append(model.get_submodule(name).register_forward_hook(hook))
        run = self._student.register_forward_hook(self._run_teacher, with_kwargs=True)
        self._hooks.append(run)

    def _run_teacher(
        self, student: nn.Module, args: Any, inputs: Mapping[str, Any], output: Any
    ) -> None:
        if not student.training:
            return
        if torch.is_grad_enabled():
            self._check_gradients()
        self.mask = inputs.get("attention_mask")
        if self._of_teacher:
            return  # Another one has run the teacher on this batch.
        if device_of(self._teacher) != device_of(student):
            self._teacher.to(device_of(student))
        with torch.no_grad():
            read = inputs_of(self._teacher, inputs.keys() - {"labels"})
            self._teacher(**{name: inputs[name] for name in read})

    def _check_gradients(self) -> None:
        """Raise UserError where the student would learn nothing from outputs.

        Re-entrant checkpointing computes a layer without gradients, which only its result gets.
        """
        for name in sorted(self._without_gradients):
            if not self._of_student[name].requires_grad:
                raise UserError(
                    f"the student would learn nothing from {name}: re-entrant gradient "
                    "checkpointing leaves outputs inside a layer without gradients; set "
                    "use_reentrant: false in activation_checkpointing_kwargs"
                )


def _recorder(outputs: dict[str, Tensor], without_gradients: set[str], name: str) -> Any:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs[name] = output if isinstance(output, Tensor) else output[0]
        if not torch.is_grad_enabled():
            without_gradients.add(name)

    return record


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters."""
    return next(model.parameters()).device
