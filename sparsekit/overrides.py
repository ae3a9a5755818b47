"""What the command line set, and what of it would change nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

# recipe.NAME=, +recipe.NAME=, teacher.recipe.NAME=, but not recipe.modifiers.NAME=
_VARIABLE = re.compile(r"\+{0,2}((?:teacher\.)?recipe)\.(\w+)=")
# The launcher itself reads them.
_ALWAYS_READ = {"num_epochs", "modifiers"}


def unread_variables(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """A problem for each recipe variable in `overrides` that nothing in `cfg`, unresolved, reads.

    So `+recipe.distil_hardness=0`, a misspelling, does not silently train with the default.
    """
    problems = []
    for override in overrides:
        if match := _VARIABLE.match(override):
            recipe, name = match.groups()
            read = _read(cfg, recipe)
            if name not in read | _ALWAYS_READ:
                known = ", ".join(sorted(read)) or "none; change recipe.modifiers instead"
                problems.append(
                    f"{override}: nothing in the recipe reads {name}, so it would change nothing; "
                    f"variables that are read: {known}"
                )
    return problems


def _read(cfg: DictConfig, recipe: str) -> set[str]:
    """The top-level keys of the recipe that any interpolation names, absolutely or relatively."""
    absolute = re.findall(rf"\${{{re.escape(recipe)}\.(\w+)", OmegaConf.to_yaml(cfg))
    relative = re.findall(r"\${\.+(\w+)", OmegaConf.to_yaml(OmegaConf.select(cfg, recipe)))
    return set(absolute) | set(relative)


def overridden_values(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What the command line set, by key: the resolved value, of a group choice its name.

    >>> config = {"recipe": {"x": 0.5}, "student": {"checkpoint": "a"}}
    >>> overridden_values(config, ["recipe.x=.5", "student=b"])
    {'recipe.x': 0.5, 'student': 'b'}
    """
    found = {}
    for override in overrides:
        key, _, text = override.lstrip("+~").partition("=")
        value: Any = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        found[key] = text if value is None or isinstance(value, Mapping | list) else value
    return found
