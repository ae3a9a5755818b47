"""Schedules of the learning rate and the weight decay, which the trainer reads at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sparsekit.modifiers.base import Modifier, overlap
from sparsekit.modifiers.epochs import EPSILON, whole_periods

LR_FUNCTIONS = ("linear", "cosine", "cyclic_linear")


def linear(progress: float, init_lr: float, final_lr: float) -> float:
    """Interpolates linearly from `init_lr` at progress 0 to `final_lr` at progress 1."""
    return init_lr + (final_lr - init_lr) * progress


def cosine(progress: float, init_lr: float, final_lr: float) -> float:
    """Half a cosine from `init_lr` at progress 0 to `final_lr` at progress 1."""
    return final_lr + (init_lr - final_lr) * (1 + math.cos(math.pi * progress)) / 2


# The required and the optional keys of LearningRate's `lr_kwargs`.
LR_CLASSES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "StepLR": (("step_size", "gamma"), ()),
    "MultiStepLR": (("milestones", "gamma"), ()),
    "ExponentialLR": (("gamma",), ()),
    "CosineAnnealingWarmRestarts": (("lr_min", "cycle_epochs"), ("cycle_mult",)),
}


@dataclass(kw_only=True)
class LearningRateSchedule(Modifier):
    """Base class of modifiers that set the learning rate within their window."""

    kind: ClassVar[str] = "optimizer"
    # The field that holds the learning rate at the window's start.
    rate_field: ClassVar[str] = "init_lr"
    # The field that names the schedule, and the one that holds its settings, if there are such.
    shape_field: ClassVar[str | None] = None
    settings_field: ClassVar[str | None] = None

    def conflict(self, other: Modifier) -> str | None:
        if isinstance(other, LearningRateSchedule) and _both_set(self, other):
            start = max(self.start, other.start)
            return (
                f"both set the learning rate at epoch {start:g}; give them windows that do not "
                "overlap"
            )
        return None

    def replaced_arguments(self, num_epochs: float) -> dict[str, str | None]:
        replaced = {
            "lr_scheduler_type": self.shape_field,
            "lr_scheduler_kwargs": self.settings_field,
            "warmup_steps": None,
            "warmup_ratio": None,
        }
        # Without the Trainer's scheduler only the epochs before the window use its learning rate.
        return replaced if self.start > 0 else {"learning_rate": self.rate_field, **replaced}

    def planned_lr(self, epoch: float, num_epochs: float, steps_per_epoch: float) -> float | None:
        if epoch < self.start:
            return None
        if self.active(epoch):
            return self.lr(epoch, num_epochs, steps_per_epoch)
        return self.lr_after(num_epochs, steps_per_epoch)

    def lr(self, epoch: float, num_epochs: float, steps_per_epoch: float) -> float:
        """The learning rate at an `epoch` in the window of a run of `num_epochs`."""
        raise NotImplementedError

    def lr_after(self, num_epochs: float, steps_per_epoch: float) -> float:
        """The learning rate after the window: that of its last step."""
        end = num_epochs if self.end is None else self.end
        return self.lr(end - 1 / steps_per_epoch, num_epochs, steps_per_epoch)


@dataclass(kw_only=True)
class LearningRateFunction(LearningRateSchedule):
    """The learning rate as a function of the epoch; SparseML's LearningRateFunctionModifier.

    lr_func: linear, cosine or cyclic_linear; the last falls from `init_lr` to `final_lr` in every
        cycle of `cycle_epochs`.

    After the window the learning rate is `final_lr`.
    """

    shape_field: ClassVar[str | None] = "lr_func"

    init_lr: float
    final_lr: float
    lr_func: str = "linear"
    cycle_epochs: float = 1.0

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if self.lr_func not in LR_FUNCTIONS:
            found.append(f"lr_func {self.lr_func!r} is not one of {', '.join(LR_FUNCTIONS)}")
        for name in ("init_lr", "final_lr"):
            if not getattr(self, name) >= 0:
                found.append(f"{name} {getattr(self, name)} must be 0 or more")
        if self.cycle_epochs <= 0:
            found.append(f"cycle_epochs {self.cycle_epochs} must be more than 0")
        return found

    def lr(self, epoch: float, num_epochs: float, steps_per_epoch: float) -> float:
        end = num_epochs if self.end is None else self.end
        since, length = epoch - self.start, end - self.start
        if self.lr_func == "cyclic_linear":
            cycle = whole_periods(since, self.cycle_epochs)
            since = max(0.0, since - cycle * self.cycle_epochs)
            length = min(self.cycle_epochs, length - cycle * self.cycle_epochs)
            # SparseML reaches final_lr at the last step of a cycle, not one step past it.
            return linear(since / max(length - 1 / steps_per_epoch, 1e-9), *self._ends)
        function = linear if self.lr_func == "linear" else cosine
        return function(since / length, *self._ends)

    def lr_after(self, num_epochs: float, steps_per_epoch: float) -> float:
        return self.final_lr

    @property
    def _ends(self) -> tuple[float, float]:
        return self.init_lr, self.final_lr


@dataclass(kw_only=True)
class SetLearningRate(LearningRateSchedule):
    """A constant learning rate from `start` until another schedule starts."""

    rate_field: ClassVar[str] = "learning_rate"

    learning_rate: float

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not self.learning_rate >= 0:
            found.append(f"learning_rate {self.learning_rate} must be 0 or more")
        if self.end is not None:
            found.append(f"end is {self.end:g}, but the rate stays once it is set; remove it")
        return found

    def lr(self, epoch: float, num_epochs: float, steps_per_epoch: float) -> float:
        return self.learning_rate


@dataclass(kw_only=True)
class LearningRate(LearningRateSchedule):
    """The learning rate of one of torch's schedulers, counted in epochs instead of steps.

    lr_class: StepLR (lr_kwargs: step_size, gamma), MultiStepLR (milestones, in epochs of the run,
        and gamma), ExponentialLR (gamma, applied once an epoch) or CosineAnnealingWarmRestarts
        (lr_min, cycle_epochs, cycle_mult).
    """

    shape_field: ClassVar[str | None] = "lr_class"
    settings_field: ClassVar[str | None] = "lr_kwargs"

    lr_class: str
    init_lr: float
    lr_kwargs: dict[str, Any] = field(default_factory=dict)

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not self.init_lr > 0:
            found.append(f"init_lr {self.init_lr} must be more than 0")
        if self.lr_class not in LR_CLASSES:
            known = ", ".join(LR_CLASSES)
            return [*found, f"lr_class {self.lr_class!r} is not one of {known}"]
        needed, optional = LR_CLASSES[self.lr_class]
        for name in needed:
            if name not in self.lr_kwargs:
                found.append(f"lr_kwargs of {self.lr_class} lacks {name}; add it")
        for name, value in self.lr_kwargs.items():
            if name not in (*needed, *optional):
                known = ", ".join((*needed, *optional))
                found.append(f"lr_kwargs of {self.lr_class} has no {name!r}; known: {known}")
            elif problem := _kwarg_problem(name, value):
                found.append(f"lr_kwargs: {name} {value!r} {problem}")
        return found

    def lr(self, epoch: float, num_epochs: float, steps_per_epoch: float) -> float:
        options, since = self.lr_kwargs, epoch - self.start + EPSILON
        match self.lr_class:
            case "StepLR":
                drops = math.floor(since / options["step_size"])
            case "MultiStepLR":
                drops = sum(epoch + EPSILON >= milestone for milestone in options["milestones"])
            case "ExponentialLR":
                drops = math.floor(since)
            case _:
                return self._warm_restarts(since)
        return float(self.init_lr * options["gamma"] ** drops)

    def _warm_restarts(self, since: float) -> float:
        length: float = self.lr_kwargs["cycle_epochs"]
        while since >= length:
            since -= length
            length *= self.lr_kwargs.get("cycle_mult", 1)
        return cosine(since / length, self.init_lr, self.lr_kwargs["lr_min"])


def _kwarg_problem(name: str, value: Any) -> str | None:
    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    if name == "milestones":
        good = isinstance(value, list) and bool(value) and all(number(each) for each in value)
        return None if good else "must be a list of epochs"
    if not number(value):
        return "must be a number"
    # A cycle that shrinks would restart ever faster and never reach the end.
    if name == "cycle_mult" and value < 1:
        return "must be 1 or more"
    if name == "lr_min":
        return None if value >= 0 else "must be 0 or more"
    return None if value > 0 else "must be more than 0"


@dataclass(kw_only=True)
class SetWeightDecay(Modifier):
    """The optimizer's weight decay, in every parameter group, as in SparseML."""

    kind: ClassVar[str] = "optimizer"

    weight_decay: float

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not self.weight_decay >= 0:
            found.append(f"weight_decay {self.weight_decay} must be 0 or more")
        return found

    def conflict(self, other: Modifier) -> str | None:
        if isinstance(other, SetWeightDecay) and _both_set(self, other):
            start = max(self.start, other.start)
            return (
                f"both set the weight decay at epoch {start:g}; give them windows that do not "
                "overlap"
            )
        return None

    def replaced_arguments(self, num_epochs: float) -> dict[str, str | None]:
        always = self.start == 0 and (self.end is None or self.end >= num_epochs)
        return {"weight_decay": "weight_decay"} if always else {}

    def planned_weight_decay(self, epoch: float) -> float | None:
        return self.weight_decay if self.active(epoch) else None


def _both_set(first: Modifier, second: Modifier) -> bool:
    # A value that is set once stays only until another modifier sets it.
    earlier, later = sorted((first, second), key=lambda modifier: modifier.start)
    if isinstance(earlier, SetLearningRate | SetWeightDecay) and earlier.start < later.start:
        return False
    return overlap(earlier, later)
