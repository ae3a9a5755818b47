"""The base class of modifiers: a window of epochs, and hooks into the training loop."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from torch import Tensor, nn

from sparsekit.errors import ConfigError
from sparsekit.shape.target import Target
from sparsekit.sparsity.planned import PlannedZeros
from sparsekit.sparsity.prunable import nothing_prunable, prunable
from sparsekit.sparsity.surgeon import Draw
from sparsekit.tasks.base import Task

ALL_PRUNABLE = "__ALL_PRUNABLE__"
ENCODER = "__ENCODER__"
ALL = "__ALL__"
PRUNABLE_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks that a modifier applies now.

    masks: boolean tensors of the weights' shapes by parameter name; False keeps a weight at zero.
        Another object whenever any of them changes.
    epochs: how long they stay as they are, from when they were made; inf to the window's end.
    """

    masks: Mapping[str, Tensor]
    epochs: float = math.inf

    def violations(self, weights: Mapping[str, Tensor]) -> list[str]:
        """The parameters of `weights` that are not zero where they are masked, as descriptions."""
        found = []
        for name, mask in self.masks.items():
            revived = int((weights[name].cpu() != 0).logical_and(~mask.cpu()).sum())
            if revived:
                found.append(f"{name}: {revived} weights are not zero although they are masked")
        return found


NO_MASKS = Masks({})


@dataclass(kw_only=True)
class Modifier:
    """One change to a training run, active for `start <= epoch < end`.

    Epochs are counted from 0 and may be fractions; `end` null means the end of training.
    A recipe leaves out a modifier that is not `enabled`, as if it were not written there.
    Fields are the keys of the recipe's yaml and nothing else; state is `_private`, set in `attach`.

    A subclass overrides what it needs. The recipe and the trainer know a modifier by these methods
    alone, so a class of any module can be named as `_target_`. The order of calls is: `problems`,
    `task_problems` and `conflict` (before anything is downloaded), `use_latency_table`,
    `use_task`, `use_teacher`, `attach`, `conflict` again, `use_rows`; `resume`, where training goes
    on from a checkpoint; then, for each optimizer step, `update`, `loss`, `before_step`,
    `constrain`; at the end of training `update` once more, `stop`, `detach`, and `results`. An
    evaluation in between runs within `as_saved`.
    """

    start: float = 0.0
    end: float | None = None
    enabled: bool = True

    # What it does, which groups modifiers in plots: optimizer, pruning, quantization, distillation.
    kind: ClassVar[str] = "other"
    # Modifiers of a lower order act first at each call, and are detached last.
    order: ClassVar[int] = 0
    # What it takes from a teacher: the logits, as `teacher_logits` in each batch, or the model
    # itself, through `use_teacher`.
    takes_teacher: ClassVar[Literal["logits", "model"] | None] = None
    # The variable of our recipes that counts `start` back from the end of training, if any.
    counted_back_by: ClassVar[str | None] = None
    # Whether `update` changes which parameters are trained (`requires_grad`).
    freezes: ClassVar[bool] = False

    def problems(self, num_epochs: float) -> list[str]:
        """What is wrong with the fields themselves, each with value, limit and fix."""
        if self.start < 0:
            found = f"start {self.start:g} lies before epoch 0; set start >= 0"
            if self.counted_back_by:
                variable = self.counted_back_by
                reached, fitting = num_epochs - self.start, 1 if num_epochs > 1 else num_epochs / 2
                found += (
                    f", or, if it is counted back from the end, as by {variable} (now "
                    f"{reached:g}), set that to at most {num_epochs:g}: {variable}={fitting:g}"
                )
            return [found]
        if self.end is not None and self.end <= self.start:
            return [
                f"its window is empty: start {self.start:g} is not before end {self.end:g}; "
                f"set end > {self.start:g} or null"
            ]
        if self.start >= num_epochs:
            return [
                f"starts at epoch {self.start:g} but training ends at {num_epochs:g}; "
                f"set start < {num_epochs:g} or train for more epochs"
            ]
        if self.end is not None and self.end > num_epochs:
            return [
                f"ends at epoch {self.end:g} but training ends at {num_epochs:g}; "
                f"set end <= {num_epochs:g} or null"
            ]
        return []

    def conflict(self, other: Modifier) -> str | None:
        """Why this modifier and `other`, a later one of the recipe, cannot be used together.

        The text follows the names of both: "prune a.weight at epoch 2; give them ...". Asked before
        any model is loaded, and again when both are attached. None if they can.
        """
        return None

    def task_problems(self, task: Task) -> list[str]:
        """What does not fit the task of the run; asked before anything is downloaded."""
        return []

    def step_problems(self, num_epochs: float, total_steps: int) -> list[str]:
        """What is wrong if training takes `total_steps` optimizer steps, and is then exported."""
        return []

    def replaced_arguments(self, num_epochs: float) -> dict[str, str | None]:
        """Training arguments that have no effect beside this modifier.

        Each with the field of the modifier that sets the value instead; None where none does.
        """
        return {}

    def final_from(self, num_epochs: float) -> float:
        """The epoch from which the model has the structure that it is exported with.

        From then on the modifier makes no more zeros, and quantizes what it quantizes. Earlier
        checkpoints are not candidates for the best one. By default the modifier changes no
        structure, so all are.
        """
        return 0.0

    def active(self, epoch: float) -> bool:
        """Whether `epoch` lies in the window."""
        return self.start <= epoch < (math.inf if self.end is None else self.end)

    @property
    def needs_teacher(self) -> bool:
        """Whether any weight falls on the teacher that it takes."""
        return self.takes_teacher is not None

    def replaces_task_loss(self, num_epochs: float) -> bool:
        """Whether `loss` leaves the task's loss no weight from the first epoch to the last."""
        return False

    def planned_lr(self, epoch: float, num_epochs: float, steps_per_epoch: float) -> float | None:
        """The learning rate that it sets at `epoch`; None: it sets none."""
        return None

    def planned_weight_decay(self, epoch: float) -> float | None:
        """The weight decay that it sets at `epoch`; None: it sets none."""
        return None

    def planned_sparsity(self, epoch: float) -> dict[str, float | None]:
        """The sparsity of each pattern in its `params` at `epoch`, known without a model.

        None: as the weights are.
        """
        return {}

    def planned_zeros(
        self, model: nn.Module, epoch: float, initial: float
    ) -> Sequence[PlannedZeros]:
        """The zeros that the trained `model` has at least, if training ended at `epoch`.

        initial: the share of zeros that each prunable layer had before training, 0 if not known.
        """
        return []

    @property
    def latency_target(self) -> Target | None:
        """The latency that the exported model is to have; None: no matter how long it takes."""
        return None

    def use_latency_table(self, file: Path) -> None:
        """Take the table that was measured for `latency_target`, where that has none."""

    def use_teacher(self, teacher: nn.Module) -> None:
        """Take the teacher's model, if `takes_teacher` is "model" and `needs_teacher`."""

    def use_task(self, task: Task) -> None:
        """Take the task of the run, before `attach`."""

    def attach(self, model: nn.Module) -> None:
        """Prepare the model, once, before the optimizer exists: the only change of structure until
        `detach`.

        Raises ConfigError where the model does not fit the fields.
        """

    def use_rows(self, draw: Draw) -> None:
        """Take a function that draws batches of training rows for the task's loss."""

    def resume(self, masks: Mapping[str, Tensor]) -> None:
        """Take its `masks` of when a checkpoint was saved, once the model has its weights.

        Not called for a checkpoint of a version that saved none.
        """

    def update(self, epoch: float) -> None:
        """Set switches and values for `epoch`, before each optimizer step; keeps no history."""

    def loss(self, loss: Tensor, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        """The training loss, given the loss so far, the batch and the model's outputs.

        inputs: the model's inputs, `labels` and, where the recipe needs them, the teacher's outputs
        as `teacher_<name>`, such as `teacher_logits` [batch, labels].
        """
        return loss

    def before_step(self) -> None:
        """Read the gradients, after they were clipped and before the optimizer uses them."""

    def constrain(self) -> None:
        """Restore what the optimizer step may have broken, such as the zeros of a mask."""

    def as_saved(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model has the weights that it would be saved with now.

        For evaluations during training.
        """
        return contextlib.nullcontext()

    def stop(self) -> None:
        """End what runs beside the model in training, such as hooks; the model stays as it is.

        Called however training ends, before `detach`, also where it was interrupted.
        """

    def detach(self, model: nn.Module) -> None:
        """Remove what `attach` added for training only, before the model is saved."""

    @property
    def resizes(self) -> bool:
        """Whether `detach` makes parameters smaller, so that `resized` is called on the others."""
        return False

    def resized(self, model: nn.Module) -> None:
        """Take the parameters anew, after another modifier's `detach` made some smaller."""

    def results(self, model: nn.Module) -> Mapping[str, Any]:
        """Parts of `summary.json` on the trained model, after `detach`."""
        return {}

    def logs(self) -> Mapping[str, float]:
        """Values by name for the training log, gathered since the last call."""
        return {}

    @property
    def masked_names(self) -> set[str]:
        """The parameters that it may mask at any epoch, once attached."""
        return set()

    def masks(self) -> Masks:
        """The masks that it applies now."""
        return NO_MASKS

    @property
    def quantized_modules(self) -> Sequence[str]:
        """The modules that it quantized, once attached."""
        return ()

    @property
    def reads_all_tokens(self) -> bool:
        """Whether it now reads activations of every token.

        Where no modifier does, the last layer of a classifier computes its first token only, and
        `last_hidden_state` has length 1.
        """
        return False

    @property
    def note(self) -> str:
        """What the schedule shows beside the window, once attached."""
        return ""


def overlap(first: Modifier, second: Modifier) -> bool:
    """Whether the windows of two modifiers have an epoch in common."""
    earlier, later = sorted((first, second), key=lambda modifier: modifier.start)
    return earlier.active(later.start)


def match_parameters(model: nn.Module, patterns: str | Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters that `patterns` name, by name.

    `__ENCODER__` is the weight of every Linear layer in the stack of transformer layers;
    `__ALL_PRUNABLE__` that of every Linear and Conv layer that does not share it with the
    embeddings; `__ALL__` is every parameter;
    `re:` starts a regular expression that must match from the start of the name; anything else is
    an exact name.
    Raises ConfigError for each pattern that matches nothing.
    """
    parameters, stack = dict(model.named_parameters()), prunable(model)
    # A decoder tied to the embeddings has their parameter, which is named after them alone.
    layers: dict[str, nn.Parameter] = {
        weight: cast(nn.Parameter, module.weight)
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE_LAYERS)
        and (weight := f"{name}.weight".removeprefix(".")) in parameters
    }
    found: dict[str, nn.Parameter] = {}
    problems = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if pattern == ALL_PRUNABLE:
            matched = layers
        elif pattern == ENCODER:
            matched = {n: layers[n] for n in layers if n.removesuffix(".weight") in stack}
            if problem := nothing_prunable(model):
                problems.append(f"params: {ENCODER}: {problem}")
                continue
        elif pattern == ALL:
            matched = parameters
        elif pattern.startswith("re:"):
            try:
                expression = re.compile(pattern.removeprefix("re:"))
            except re.error as error:
                problems.append(f"params: {pattern!r} is not a regular expression: {error}")
                continue
            matched = {n: p for n, p in parameters.items() if expression.match(n)}
        else:
            matched = {pattern: parameters[pattern]} if pattern in parameters else {}
        if not matched:
            problems.append(
                f"params: {pattern!r} matches no parameter; the model has names such as "
                f"{', '.join(list(layers)[:3])}; write an exact name, re:<regex>, {ENCODER} or "
                f"{ALL_PRUNABLE}"
            )
        found |= matched
    if problems:
        raise ConfigError(problems)
    return found
