"""Overrides and config keys that nothing reads."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, OmegaConf

from sparsekit.errors import suggestion

# recipe.NAME=, +recipe.NAME=, teacher.recipe.NAME=, but not recipe.modifiers.NAME=
_VARIABLE = re.compile(r"\+{0,2}((?:teacher\.)?recipe)\.(\w+)=")
# The top-level keys of conf/config.yaml.
KEYS = (
    *("task", "dataset", "student", "teacher", "recipe", "training", "engine", "export", "runtime"),
    *("tracking", "seed", "output_dir", "sweep"),
)
# Set by tasks, for the recipes that read them.
TASK_KEYS = ("distill_output_keys", "obs_gradients")
# Groups whose keys are not a target's arguments, always or for the choice `none`, and their keys.
PLAIN_GROUPS: dict[str, tuple[str, ...]] = {
    "engine": (),
    "export": (),
    "runtime": (),
    "sweep": ("rerun", "fail_fast", "root", "trial"),
}
# Read by the launcher itself.
_ALWAYS_READ = {"num_epochs", "modifiers"}


def unread_variables(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """A problem for each recipe variable in `overrides` that no interpolation in `cfg` refers to.

    A misspelling such as `+recipe.distil_hardness=0` would otherwise train with the default.
    `cfg` is the unresolved config.
    """
    problems = []
    for override in overrides:
        if match := _VARIABLE.match(override):
            recipe, name = match.groups()
            read = _read(cfg, recipe)
            if name not in read | _ALWAYS_READ:
                known = ", ".join(sorted(read)) or "none; change recipe.modifiers instead"
                close = difflib.get_close_matches(name, read, n=1)
                hint = f"did you mean {recipe}.{close[0]}? " if close else ""
                problems.append(
                    f"{override}: nothing in the recipe reads {name}, so it would have no effect; "
                    f"{hint}variables that are read: {known}"
                )
    return problems


def idle_variables(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """A warning for each recipe variable in `overrides` that only disabled modifiers read.

    `recipe.obs_frequency=1.0` is an example while `recipe.obs_gradients` is 0. It is not refused,
    because a sweep may vary both. `cfg` is the unresolved config.
    """
    warnings = []
    for override in overrides:
        if match := _VARIABLE.match(override):
            recipe, name = match.groups()
            disabled, live = _without_disabled(cfg, recipe)
            if disabled and name in _read(cfg, recipe) - _read(live, recipe) - _ALWAYS_READ:
                # Those that name the variable; if none does, they read it through another one.
                named = re.compile(rf"\${{[\w.]*\.{name}\b")
                readers = [n for n, text in disabled.items() if named.search(text)] or [*disabled]
                warnings.append(
                    f"{override} has no effect: only {' and '.join(readers)} of {recipe}.modifiers "
                    f"{'reads' if len(readers) == 1 else 'read'} it, which "
                    f"{'is' if len(readers) == 1 else 'are'} disabled"
                )
    return warnings


def unread_keys(cfg: DictConfig) -> list[str]:
    """A problem for each key of `cfg` that nothing is built from and no interpolation refers to.

    Hydra suggests `+num_epochs=3` where it refuses `num_epochs=3`; it would have no effect, nor
    would a misspelt `traning:` in a file of experiments/. `cfg` is the unresolved config.
    """
    text, values = OmegaConf.to_yaml(cfg), OmegaConf.to_container(cfg)
    assert isinstance(values, dict)
    keys = [(str(key), suggestion(str(key), KEYS)) for key in values if key not in KEYS + TASK_KEYS]
    for group, known in PLAIN_GROUPS.items():
        # A choice with a target is built strictly, which names what it does not know.
        node = values.get(group)
        if isinstance(node, Mapping) and not node.get("_target_"):
            keys += [
                (
                    f"{group}.{key}",
                    suggestion(str(key), known) if known else f" with this choice of {group}",
                )
                for key in node
                if key not in {*known, "_target_"}
            ]
    return [
        f"{key}: nothing reads it, so it would have no effect{hint}"
        for key, hint in keys
        if not re.search(rf"\${{(oc\.select:)?{re.escape(key)}\b", text)
    ]


def _read(cfg: DictConfig, recipe: str) -> set[str]:
    """The top-level keys of the recipe that any interpolation names, absolutely or relatively."""
    absolute = re.findall(rf"\${{{re.escape(recipe)}\.(\w+)", OmegaConf.to_yaml(cfg))
    relative = re.findall(r"\${\.+(\w+)", OmegaConf.to_yaml(OmegaConf.select(cfg, recipe)))
    return set(absolute) | set(relative)


def _without_disabled(cfg: DictConfig, recipe: str) -> tuple[dict[str, str], DictConfig]:
    """The recipe's disabled modifiers as text by name, and `cfg` without them.

    What decides that they are disabled stays.
    """
    disabled, live = {}, copy.deepcopy(cfg)
    OmegaConf.set_struct(live, False)
    modifiers = OmegaConf.select(live, f"{recipe}.modifiers") or {}
    for name in list(modifiers):
        modifier = modifiers[name]
        if isinstance(modifier, DictConfig) and not modifier.get("enabled", True):
            text = OmegaConf.to_yaml(modifier)
            disabled[str(name)] = re.sub(r"(?m)^enabled:.*$", "", text)
            for key in set(modifier) - {"enabled"}:
                modifier.pop(key)
    return disabled, live
