"""What a modifier is: a window of epochs, and hooks into the training loop."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from sparsekit.errors import ConfigError

ALL_PRUNABLE = "__ALL_PRUNABLE__"
ALL = "__ALL__"
PRUNABLE_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(kw_only=True)
class Modifier:
    """One change to a training run, active for `start <= epoch < end`.

    Epochs are counted from 0 and may be fractions; `end` null means the end of training.
    A recipe leaves out a modifier that is not `enabled`, as if it were not written there.
    Fields are the keys of the recipe's yaml and nothing else; state is `_private`, set in `attach`.
    """

    start: float = 0.0
    end: float | None = None
    enabled: bool = True

    def problems(self, num_epochs: float) -> list[str]:
        """What is wrong with the fields themselves, each with value, limit and fix."""
        if self.start < 0:
            # Counted back from the end, as recipe.qat_epochs is, it says how far back.
            reached = num_epochs - self.start
            return [
                f"start {self.start:g} lies before epoch 0; set start >= 0, or, if it is counted "
                f"back from the end as recipe.qat_epochs is, go back {num_epochs:g} epochs at most "
                f"instead of {reached:g}"
            ]
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

    def active(self, epoch: float) -> bool:
        """Whether `epoch` lies in the window."""
        return self.start <= epoch < (math.inf if self.end is None else self.end)

    def attach(self, model: nn.Module) -> None:
        """Prepare the model, once, before the optimizer exists: the only change of structure."""

    def update(self, epoch: float) -> None:
        """Set switches and values for `epoch`, before each optimizer step; keeps no history."""

    def loss(self, loss: Tensor, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        """The training loss, given the loss so far, the batch and the model's outputs."""
        return loss

    def before_step(self) -> None:
        """See the gradients, after they were clipped and before the optimizer uses them."""

    def constrain(self) -> None:
        """Restore what the optimizer step may have broken, such as the zeros of a mask."""

    def detach(self, model: nn.Module) -> None:
        """Take away what `attach` added for training only, before the model is saved for good."""


def match_parameters(model: nn.Module, patterns: str | Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters that `patterns` name, by name.

    `__ALL_PRUNABLE__` is the weight of every Linear and Conv layer, `__ALL__` every parameter;
    `re:` starts a regular expression that must match from the start of the name; anything else is
    an exact name.
    Raises ConfigError for each pattern that matches nothing.
    """
    prunable: dict[str, nn.Parameter] = {
        f"{name}.weight": cast(nn.Parameter, module.weight)
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE_LAYERS)
    }
    parameters = dict(model.named_parameters())
    found: dict[str, nn.Parameter] = {}
    problems = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if pattern == ALL_PRUNABLE:
            matched = prunable
        elif pattern == ALL:
            matched = parameters
        elif pattern.startswith("re:"):
            try:
                expression = re.compile(pattern.removeprefix("re:"))
            except re.error as error:
                problems.append(f"params: {pattern!r} is no regular expression: {error}")
                continue
            matched = {n: p for n, p in parameters.items() if expression.match(n)}
        else:
            matched = {pattern: parameters[pattern]} if pattern in parameters else {}
        if not matched:
            problems.append(
                f"params: {pattern!r} matches no parameter; the model has names such as "
                f"{', '.join(list(prunable)[:3])}; write an exact name, re:<regex> or "
                f"{ALL_PRUNABLE}"
            )
        found |= matched
    if problems:
        raise ConfigError(problems)
    return found
