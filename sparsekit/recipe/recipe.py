"""A recipe: read from a file or a config, checked, and saved beside the weights."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from sparsekit.config.build import build
from sparsekit.config.plain import plain
from sparsekit.errors import ConfigError
from sparsekit.modifiers.base import Modifier
from sparsekit.recipe.modifier_group import ModifierGroup
from sparsekit.recipe.source import (
    native_config,
    values_of_file,
    values_of_mapping,
    values_of_text,
)
from sparsekit.sparseml.recipes.load import register_resolvers
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
class Recipe(ModifierGroup):
    """The enabled modifiers by name.

    values: the resolved config that they were built from.
    without_teacher: modifiers that are left out because the run has no teacher.
    """

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
        if (
            not isinstance(num_epochs, int | float)
            or isinstance(num_epochs, bool)
            or not 0 < num_epochs <= MAX_EPOCHS
        ):
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
        return cls.build(plain(native_config(path))["recipe"])

    @classmethod
    def from_file(cls, path: str | Path, /, **variables: Any) -> Recipe:
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
    def from_text(cls, text: str, /, **variables: Any) -> Recipe:
        """A recipe from YAML text, native or SparseML's; otherwise as `from_file`."""
        return cls._checked(values_of_text(text, variables))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], /, **variables: Any) -> Recipe:
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

    def task_problems(self, task: Task) -> list[str]:
        """What does not fit the task that is trained; asked after `for_teacher`."""
        problems = [
            f"recipe.modifiers.{name} {problem}"
            for name, modifier in self.modifiers.items()
            for problem in modifier.task_problems(task)
        ]
        if task.learns_from_teacher and not self.uses_teacher("logits"):
            problems.append(
                f"{task.name} learns from a teacher alone: set teacher=self, or "
                "teacher=checkpoint with teacher.checkpoint, and a recipe that distils outputs, "
                "such as recipe=pruned90"
            )
        return problems

    def for_teacher(self, has_teacher: bool) -> Recipe:
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

    def save(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the resolved recipe, with what it was run with, as a recipe that `load` reads."""
        text = yaml.safe_dump({**self.values, "metadata": dict(metadata)}, sort_keys=False)
        path.write_text(
            "# The resolved recipe of this run, written by sparsekit.\n" + text, encoding="utf-8"
        )
