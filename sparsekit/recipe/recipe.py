"""A recipe: the modifiers of a run, checked, applied at each step, and saved beside the weights."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from sparsekit.config.build import build
from sparsekit.config.plain import plain
from sparsekit.config.yaml_limits import check_yaml
from sparsekit.errors import ConfigError, UserError
from sparsekit.modifiers.base import Modifier
from sparsekit.recipe.source import values_of_file, values_of_mapping, values_of_text
from sparsekit.sparseml.recipes.load import register_resolvers
from sparsekit.sparsity.surgeon import Draw
from sparsekit.tasks.base import Task

# A larger number is a typing error: the schedule has a row for each epoch.
MAX_EPOCHS = 10_000


@dataclass(frozen=True)
class Replacement:
    """What decides instead of a training argument.

    by: the recipe, or the key of a modifier.
    key: the key to set; None where the modifier has no such setting.
    """

    by: str
    key: str | None


@dataclass
class Recipe:
    """The enabled modifiers by name.

    values: the resolved config that they were built from.
    without_teacher: modifiers that are left out because the run has no teacher.
    """

    num_epochs: float
    modifiers: dict[str, Modifier]
    values: dict[str, Any]
    without_teacher: dict[str, Modifier] = field(default_factory=dict)

    @classmethod
    def build(cls, values: dict[str, Any], *, trusted: bool = False) -> Recipe:
        """A recipe from resolved plain values; raises ConfigError with every problem of a field.

        trusted: whether its modifiers may be of modules outside of sparsekit that are not imported
        yet, as those of the user's own config may.
        """
        modifiers, problems = {}, []
        nodes = values.get("modifiers") or {}
        if not isinstance(nodes, Mapping):
            raise ConfigError([f"recipe.modifiers is {reprlib.repr(nodes)}; write NAME: MODIFIER"])
        for name, node in nodes.items():
            if node is None:
                continue
            if not isinstance(node, Mapping) or "_target_" not in node:
                problems.append(f"recipe.modifiers.{name} has no _target_ that names a modifier")
                continue
            try:
                modifier: Modifier = build(
                    dict(node), f"recipe.modifiers.{name}", Modifier, trusted=trusted
                )
            except ConfigError as error:
                problems += error.problems
                continue
            if modifier.enabled:
                modifiers[name] = modifier
        num_epochs = values.get("num_epochs")
        if not isinstance(num_epochs, int | float) or not 0 < num_epochs <= MAX_EPOCHS:
            problems.append(
                f"recipe.num_epochs is {reprlib.repr(num_epochs)}; set a number above 0, "
                f"{MAX_EPOCHS} at most"
            )
        if problems:
            raise ConfigError(problems)
        assert isinstance(num_epochs, int | float)
        return cls(num_epochs, modifiers, values)

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """A recipe from a yaml file, native (with interpolations) or as `save` wrote it."""
        register_resolvers()
        try:
            check_yaml(path.read_bytes(), str(path))
            node = OmegaConf.load(path)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"cannot read the recipe {path}: {error}") from error
        if not isinstance(node, DictConfig) or "num_epochs" not in node:
            raise UserError(
                f"{path} is not a sparsekit recipe: it has no num_epochs at its top level"
            )
        node.pop("metadata", None)
        return cls.build(plain(OmegaConf.create({"recipe": node}))["recipe"])

    @classmethod
    def from_file(cls, path: str | Path, **variables: Any) -> Recipe:
        """A recipe from a file, native or SparseML's, checked.

        Args:
            path: a YAML file, a SparseML recipe (`.yaml` or Markdown), or the name of one of our
                own recipes, as in `Recipe.from_file("pruned90_quant")`.
            variables: values for variables of the recipe, as in `num_epochs=3`. Windows that are
                expressions of a variable move with it.

        Raises:
            UserError: a file that cannot be read or is not a recipe, and a variable that the recipe
                does not have.
            ConfigError: everything that is wrong with the recipe, such as a window that begins
                after `num_epochs`.
        """
        return cls._checked(values_of_file(path, variables))

    @classmethod
    def from_text(cls, text: str, **variables: Any) -> Recipe:
        """A recipe from YAML text, native or SparseML's; otherwise as `from_file`."""
        return cls._checked(values_of_text(text, variables))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **variables: Any) -> Recipe:
        """A native recipe from a mapping of its keys; otherwise as `from_file`.

        >>> recipe = Recipe.from_dict({"num_epochs": 3, "modifiers": {}}, num_epochs=2)
        >>> recipe.num_epochs
        2
        """
        return cls._checked(values_of_mapping(values, variables))

    @classmethod
    def _checked(cls, values: dict[str, Any]) -> Recipe:
        recipe = cls.build(values)
        if problems := recipe.problems():
            raise ConfigError(problems)
        return recipe

    def problems(self) -> list[str]:
        """Every problem that can be found before a download or a model is loaded."""
        found = [
            f"recipe.modifiers.{name} {problem}"
            for name, modifier in self.modifiers.items()
            for problem in modifier.problems(self.num_epochs)
        ]
        return found + self._conflicts()

    def task_problems(self, task: Task) -> list[str]:
        """What does not fit the task that is trained; asked after `taught`."""
        problems = [
            f"recipe.modifiers.{name} {problem}"
            for name, modifier in self.modifiers.items()
            for problem in modifier.task_problems(task)
        ]
        if task.learns_from_teacher and not self.needs_teacher("logits"):
            problems.append(
                f"{task.name} learns from a teacher alone: set teacher=self, or "
                "teacher=checkpoint with teacher.checkpoint, and a recipe that distils outputs, "
                "such as recipe=pruned90"
            )
        return problems

    def use_task(self, task: Task) -> None:
        """Give each modifier the task that is trained."""
        for modifier in self.modifiers.values():
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

    def taught(self, has_teacher: bool) -> Recipe:
        """This recipe for a run with or without a teacher.

        Without one, modifiers that need it are left out, so that the task's loss counts alone.
        Raises ConfigError for a teacher that no modifier takes.
        """
        if not has_teacher:
            out = {name: m for name, m in self.modifiers.items() if m.needs_teacher}
            rest = {name: m for name, m in self.modifiers.items() if name not in out}
            return replace(self, modifiers=rest, without_teacher=out)
        if not any(modifier.takes_teacher for modifier in self.modifiers.values()):
            raise ConfigError(
                [
                    "a teacher is given, but the recipe has no modifier that distils, so it would "
                    "not be used; set teacher=none, or choose a recipe that distils, such as "
                    "recipe=pruned90"
                ]
            )
        return self

    def needs_teacher(self, what: Literal["logits", "model"]) -> bool:
        """Whether any modifier needs the teacher's logits, or its model."""
        return any(m.takes_teacher == what and m.needs_teacher for m in self.modifiers.values())

    def use_teacher(self, make: Callable[[], nn.Module]) -> None:
        """Give each modifier that needs the teacher's model one that `make` returns."""
        for modifier in self.modifiers.values():
            if modifier.takes_teacher == "model" and modifier.needs_teacher:
                modifier.use_teacher(make())

    def replaced_arguments(self) -> dict[str, Replacement]:
        """Training arguments without effect beside this recipe, and what decides instead."""
        found = {"num_train_epochs": Replacement("the recipe", "recipe.num_epochs")}
        for name, modifier in self.modifiers.items():
            where = f"recipe.modifiers.{name}"
            for argument, field_name in modifier.replaced_arguments(self.num_epochs).items():
                # Where the recipe has a variable of the field's name, the field reads it.
                prefix = "recipe" if field_name in self.values else where
                key = None if field_name is None else f"{prefix}.{field_name}"
                found.setdefault(argument, Replacement(where, key))
        return found

    def attach(self, model: nn.Module) -> None:
        """Prepare the model, once, before the optimizer; raises ConfigError with all problems."""
        problems = []
        for name, modifier in sorted(self.modifiers.items(), key=lambda item: item[1].order):
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
        for modifier in self.modifiers.values():
            modifier.use_rows(draw)

    def update(self, epoch: float) -> None:
        """Set every modifier to `epoch`; calling it with any epoch in any order is safe."""
        _update(self.modifiers.values(), epoch)

    def loss(self, loss: Tensor, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        """The training loss: the task's `loss`, passed through each modifier in turn."""
        for modifier in self.modifiers.values():
            loss = modifier.loss(loss, inputs, outputs)
        return loss

    def before_step(self) -> None:
        """Let every modifier read the gradients that the optimizer is about to use."""
        for modifier in self.modifiers.values():
            modifier.before_step()

    def constrain(self) -> None:
        """Restore what an optimizer step broke, such as the zeros of masks."""
        for modifier in self.modifiers.values():
            modifier.constrain()

    def detach(self, model: nn.Module) -> None:
        """Remove from the model what was added for training only."""
        for modifier in self.modifiers.values():
            modifier.detach(model)

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

    def save(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the resolved recipe, with what it was run with, as a recipe that `load` reads."""
        text = yaml.safe_dump({**self.values, "metadata": dict(metadata)}, sort_keys=False)
        path.write_text(
            "# The resolved recipe of this run, written by sparsekit.\n" + text, encoding="utf-8"
        )


def _update(modifiers: Iterable[Modifier], epoch: float) -> None:
    # Those that are active come last: what one restores at its end another may have changed.
    for modifier in sorted(modifiers, key=lambda m: (m.order, m.active(epoch))):
        modifier.update(epoch)
