"""The modifiers of a recipe, asked and applied as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from torch import Tensor, nn

from sparsekit.errors import ConfigError
from sparsekit.modifiers.base import Modifier
from sparsekit.sparsity.planned import PlannedZeros
from sparsekit.sparsity.surgeon import Draw
from sparsekit.tasks.base import Task


@dataclass
class ModifierGroup:
    """Modifiers by name, for a training of `num_epochs` epochs.

    Each question is answered for all of them together, and each step of training is passed on to
    them in the order that they ask for; those that ask for the same keep the recipe's.
    """

    num_epochs: float
    modifiers: dict[str, Modifier]

    @property
    def _ordered(self) -> list[tuple[str, Modifier]]:
        """The modifiers with their names, in the order in which they act."""
        return sorted(self.modifiers.items(), key=lambda item: item[1].order)

    def problems(self) -> list[str]:
        """Every problem that can be found before a download or a model is loaded."""
        found = [
            f"recipe.modifiers.{name} {problem}"
            for name, modifier in self.modifiers.items()
            for problem in modifier.problems(self.num_epochs)
        ]
        return found + self._conflicts()

    def use_task(self, task: Task) -> None:
        """Give each modifier the task that is trained."""
        for _, modifier in self._ordered:
            modifier.use_task(task)

    def step_problems(self, total_steps: int) -> list[str]:
        """What is wrong with training for `total_steps` optimizer steps before an export."""
        return [
            f"recipe.modifiers.{name} {problem}"
            for name, modifier in self.modifiers.items()
            for problem in modifier.step_problems(self.num_epochs, total_steps)
        ]

    def _conflicts(self) -> list[str]:
        return [
            f"recipe.modifiers.{first} and recipe.modifiers.{second} {conflict}"
            for (first, one), (second, other) in combinations(self.modifiers.items(), 2)
            if (conflict := one.conflict(other))
        ]

    def uses_teacher(self, what: Literal["logits", "model"]) -> bool:
        """Whether any modifier needs the teacher's logits, or its model."""
        return any(m.takes_teacher == what and m.needs_teacher for m in self.modifiers.values())

    def use_teacher(self, make: Callable[[], nn.Module]) -> None:
        """Give each modifier that needs the teacher's model the one that `make` returns.

        It is made once at most: a teacher that they share runs once a batch.
        """
        taking = [m for _, m in self._ordered if m.takes_teacher == "model" and m.needs_teacher]
        teacher = make() if taking else None
        for modifier in taking:
            assert teacher is not None
            modifier.use_teacher(teacher)

    def attach(self, model: nn.Module) -> None:
        """Prepare the model, once, before the optimizer; raises ConfigError with all problems."""
        problems = []
        for name, modifier in self._ordered:
            try:
                modifier.attach(model)
            except ConfigError as error:
                problems += [f"recipe.modifiers.{name}: {text}" for text in error.problems]
        problems = problems or self._conflicts() + self._all_frozen(model)
        if problems:
            raise ConfigError(problems)
        self.update(0.0)

    def _all_frozen(self, model: nn.Module) -> list[str]:
        freezing = {name: m for name, m in self.modifiers.items() if m.freezes}
        found = []
        for name, modifier in freezing.items():
            _update(freezing.values(), modifier.start)
            if not any(parameter.requires_grad for parameter in model.parameters()):
                when = f"at epoch {modifier.start:g}: every parameter is frozen"
                found.append(f"recipe.modifiers.{name} leaves nothing to train {when}")
        return found

    def use_rows(self, draw: Draw) -> None:
        """Give every modifier the function that draws training rows."""
        for _, modifier in self._ordered:
            modifier.use_rows(draw)

    def update(self, epoch: float) -> None:
        """Set every modifier to `epoch`; calling it with any epoch in any order is safe."""
        _update(self.modifiers.values(), epoch)

    def loss(self, loss: Tensor, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        """The training loss: the task's `loss`, passed through each modifier in turn."""
        for _, modifier in self._ordered:
            loss = modifier.loss(loss, inputs, outputs)
        return loss

    def before_step(self) -> None:
        """Let every modifier read the gradients that the optimizer is about to use."""
        for _, modifier in self._ordered:
            modifier.before_step()

    def constrain(self) -> None:
        """Restore what an optimizer step broke, such as the zeros of masks."""
        for _, modifier in self._ordered:
            modifier.constrain()

    @contextlib.contextmanager
    def as_saved(self) -> Iterator[None]:
        """A context in which the model has the weights that it would be saved with now."""
        with contextlib.ExitStack() as stack:
            for _, modifier in self._ordered:
                stack.enter_context(modifier.as_saved())
            yield

    def stop(self) -> None:
        """End what runs beside the model in training, however training ends."""
        for modifier in self.modifiers.values():
            modifier.stop()

    def detach(self, model: nn.Module) -> None:
        """Remove from the model what was added for training only, the last thing first."""
        for _, modifier in reversed(self._ordered):
            modifier.detach(model)
        if self.resizes:
            for _, modifier in self._ordered:
                modifier.resized(model)

    @property
    def resizes(self) -> bool:
        """Whether any modifier makes parameters smaller at the end of training."""
        return any(modifier.resizes for modifier in self.modifiers.values())

    def results(self, model: nn.Module) -> dict[str, Any]:
        """Parts of `summary.json` on the trained model, after `detach`."""
        found: dict[str, Any] = {}
        for modifier in self.modifiers.values():
            found |= modifier.results(model)
        return found

    def logs(self) -> dict[str, float]:
        """Values for the training log; the mean where several modifiers log under one name."""
        values: dict[str, list[float]] = {}
        for modifier in self.modifiers.values():
            for name, value in modifier.logs().items():
                values.setdefault(name, []).append(value)
        return {name: sum(each) / len(each) for name, each in values.items()}

    def lr(self, epoch: float, steps_per_epoch: float) -> float | None:
        """The learning rate that the recipe sets at `epoch`; None where it has set none yet.

        After a window it stays where that window left it.
        """
        return self._latest(
            (modifier, modifier.planned_lr(epoch, self.num_epochs, steps_per_epoch))
            for modifier in self.modifiers.values()
        )

    @property
    def sets_lr(self) -> bool:
        """Whether any modifier sets the learning rate, at any epoch."""
        return any(
            modifier.planned_lr(modifier.start, self.num_epochs, 1) is not None
            for modifier in self.modifiers.values()
        )

    def weight_decay(self, epoch: float) -> float | None:
        """The weight decay that the recipe sets at `epoch`; None where it sets none."""
        return self._latest(
            (modifier, modifier.planned_weight_decay(epoch)) for modifier in self.modifiers.values()
        )

    @property
    def sets_weight_decay(self) -> bool:
        """Whether any modifier sets the weight decay, at any epoch."""
        return any(
            modifier.planned_weight_decay(modifier.start) is not None
            for modifier in self.modifiers.values()
        )

    @staticmethod
    def _latest(planned: Iterable[tuple[Modifier, float | None]]) -> float | None:
        # The value of the modifier that started last.
        values = [(modifier.start, value) for modifier, value in planned if value is not None]
        return max(values, key=lambda pair: pair[0])[1] if values else None

    @property
    def replaces_task_loss(self) -> str | None:
        """The modifier that leaves the task's loss no weight in any epoch, if there is one."""
        modifiers = self.modifiers.items()
        return next((n for n, m in modifiers if m.replaces_task_loss(self.num_epochs)), None)

    @property
    def final_from(self) -> float:
        """The epoch at which the last stage begins: target sparsity reached, quantizers on."""
        epochs = (modifier.final_from(self.num_epochs) for modifier in self.modifiers.values())
        return max(epochs, default=0.0)

    @property
    def quantized_modules(self) -> list[str]:
        """The modules that its modifiers quantized, once attached."""
        return [name for m in self.modifiers.values() for name in m.quantized_modules]

    @property
    def masked_names(self) -> set[str]:
        """The parameters that any modifier may mask, once attached."""
        return {name for m in self.modifiers.values() for name in m.masked_names}

    @property
    def reads_all_tokens(self) -> bool:
        """Whether any modifier now reads activations of every token."""
        return any(modifier.reads_all_tokens for modifier in self.modifiers.values())

    def violations(self, weights: Mapping[str, Tensor]) -> list[str]:
        """What in `weights`, by parameter name, breaks a mask of this run."""
        return [text for m in self.modifiers.values() for text in m.masks().violations(weights)]

    def planned_zeros(
        self, model: nn.Module, epoch: float, initial: float = 0.0
    ) -> list[PlannedZeros]:
        """The zeros that the trained `model` has at least, if training ended at `epoch`.

        Empty where parameters became smaller, since zeros went with what was removed.
        initial: the share of zeros that each prunable layer had before training, 0 if not known.
        """
        modifiers = [] if self.resizes else self.modifiers.values()
        return [plan for m in modifiers for plan in m.planned_zeros(model, epoch, initial)]

    def sparsity(self, epoch: float) -> dict[str, float | None]:
        """The planned sparsity of each group of weights at `epoch`; None: as the weights are.

        A group is a pruning modifier's name, with the pattern of its params where it has several.
        """
        found = {}
        for name, modifier in self.modifiers.items():
            planned = modifier.planned_sparsity(epoch)
            for pattern, share in planned.items():
                found[name if len(planned) == 1 else f"{name}: {pattern}"] = share
        return found


def _update(modifiers: Iterable[Modifier], epoch: float) -> None:
    # Those that are active come last: what one restores at its end another may have changed.
    for modifier in sorted(modifiers, key=lambda m: (m.order, m.active(epoch))):
        modifier.update(epoch)
