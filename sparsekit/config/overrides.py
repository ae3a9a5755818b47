"""What the command line set, and what of it would change nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

# recipe.NAME=, +recipe.NAME=, teacher.recipe.NAME=, but not recipe.modifiers.NAME=
_VARIABLE = re.compile(r"\+{0,2}((?:teacher\.)?recipe)\.(\w+)=")
# What conf/config.yaml composes.
KEYS = (
    *("dataset", "student", "teacher", "recipe", "training", "engine", "export", "runtime"),
    *("tracking", "seed", "output_dir", "sweep"),
)
# Groups, with their keys, that are no arguments of a target, always or for the choice `none`.
PLAIN_GROUPS: dict[str, tuple[str, ...]] = {
    "engine": (),
    "export": (),
    "runtime": (),
    "sweep": ("rerun", "fail_fast", "root", "trial"),
}
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


def unread_keys(cfg: DictConfig) -> list[str]:
    """A problem for each key of `cfg`, unresolved, that no part of a run is built from or names.

    So `+num_epochs=3`, which Hydra advises where `num_epochs=3` is refused, does not silently
    train for as long as before, nor does `traning:` in a file of experiments/.
    """
    text, values = OmegaConf.to_yaml(cfg), OmegaConf.to_container(cfg)
    assert isinstance(values, dict)
    keys = [(str(key), f"; known: {', '.join(KEYS)}") for key in values if key not in KEYS]
    for group, known in PLAIN_GROUPS.items():
        # A choice with a target is built strictly, which names what it does not know.
        node = values.get(group)
        if isinstance(node, Mapping) and not node.get("_target_"):
            hint = f"; known: {', '.join(known)}" if known else f" with this choice of {group}"
            keys += [(f"{group}.{k}", hint) for k in node if k not in {*known, "_target_"}]
    return [
        f"{key}: nothing reads it, so it would change nothing{hint}"
        for key, hint in keys
        if not re.search(rf"\${{{re.escape(key)}\b", text)
    ]


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
