"""The training arguments that a user of the Python API gives, as the trainer takes them."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from transformers import TrainingArguments

from sparsekit.errors import ConfigError
from sparsekit.recipe.recipe import Recipe, Replacement
from sparsekit.training.arguments import SparseTrainingArguments

# Arguments of the Trainer whose values are also values of the recipe's variable.
_SAME_MEANING = ("num_train_epochs", "learning_rate", "weight_decay")


def sparse_arguments(args: TrainingArguments | None, recipe: Recipe) -> SparseTrainingArguments:
    """A copy of `args` as SparseTrainingArguments, with the recipe's number of epochs.

    Fields that plain TrainingArguments lack take their defaults; `bf16` and `fp16` become the
    precision. Raises ConfigError for an argument that differs from its default although the recipe
    sets what it is about.
    """
    if isinstance(args, SparseTrainingArguments):
        converted = copy.copy(args)
    else:
        converted = SparseTrainingArguments(**({} if args is None else _as_given(args)))
    allowed = {"num_train_epochs": recipe.num_epochs}
    problems = [
        f"TrainingArguments({argument}={value!r}) has no effect, because "
        f"{_instead(recipe, argument, replacement, value)}"
        for argument, replacement in recipe.replaced_arguments().items()
        if (value := getattr(converted, argument, None)) is not None
        and value not in (_default(argument), allowed.get(argument))
    ]
    if problems:
        raise ConfigError(problems)
    converted.num_train_epochs = recipe.num_epochs
    if converted.device.type == "cpu":
        converted.dataloader_pin_memory = False  # of use for a GPU only, and torch would warn
    return converted


def _instead(recipe: Recipe, argument: str, replacement: Replacement, value: Any) -> str:
    """What decides instead of `argument`, and how to set that."""
    key = replacement.key
    if key is None:
        return (
            f"{replacement.by} decides it and has no such setting: leave it out, or take that "
            "modifier out of the recipe"
        )
    fix = f"the recipe sets it: leave it out, or set {key}"
    variable = key.removeprefix("recipe.")
    if variable not in recipe.values:
        return fix  # a field of a modifier, which no argument of SparseTrainer sets
    fix += f" (now {recipe.values[variable]})"
    if argument not in _SAME_MEANING:
        return fix
    return f"{fix}, as in recipe_args={{{variable!r}: {value!r}}}"


def _default(argument: str) -> Any:
    field = SparseTrainingArguments.__dataclass_fields__.get(argument)
    if field is None:
        return None
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def given_arguments(args: TrainingArguments) -> dict[str, Any]:
    """The fields of `args` that differ from their defaults."""
    names = [field.name for field in dataclasses.fields(args) if field.init]
    return {name: getattr(args, name) for name in names if getattr(args, name) != _default(name)}


def _as_given(args: TrainingArguments) -> dict[str, Any]:
    """What plain `args` were made of: what they derived from it is derived again."""
    known = SparseTrainingArguments.__dataclass_fields__
    given = {name: value for name, value in given_arguments(args).items() if name in known}
    if given.pop("bf16", False):
        given["precision"] = "bf16"
    if given.pop("fp16", False):
        given["precision"] = "fp16"
    return given
