"""Overrides that Hydra refuses, explained in one line with what was probably meant."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import PurePath

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from sparsekit.config.build import locate
from sparsekit.config.old_names import current_name

# Groups that add no key of their name to the config.
GROUPS_ALONE = ("experiments",)
# Longer lists of keys are not printed.
LISTED = 20


def explained(error: Exception, overrides: Sequence[str]) -> str:
    """One line for an error of Hydra's or OmegaConf's about the overrides of a command line.

    It names the override and the nearest choice or key; errors of another kind keep their text.
    """
    cause = error.__cause__
    if isinstance(error, MissingConfigException):
        return _no_choice(error, overrides)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(
        cause.parent_node, DictConfig
    ):
        return _no_key(str(cause.full_key), cause.parent_node, overrides)
    if isinstance(error, OverrideParseException) and "=" not in error.override:
        return f"{error.override}: write KEY=VALUE"
    return _by_text(str(error)) if isinstance(error, HydraException) else _line(str(error))


def _no_choice(error: MissingConfigException, overrides: Sequence[str]) -> str:
    """The message for a choice that a group does not have, or that is the path of a file."""
    missing, known = error.missing_cfg_file or "", sorted(error.options or [])
    pairs = (word.lstrip("+").partition("=") for word in overrides)
    chosen = [(key, value) for key, _, value in pairs if f"{key}/{value}" == missing]
    if not chosen or not known:
        return _line(str(error))
    group, name = chosen[0]
    if name.endswith((".yaml", ".yml", ".md")):
        return f"{group}={name}: {_own_file(group, PurePath(name))}"
    return f"{group}={name}: the group {group} has no {name}{_nearest(name, known)}"


def _own_file(group: str, file: PurePath) -> str:
    """How to choose a file: Hydra takes names of files in the folders that it searches."""
    inside = file.parent.name == group
    folder = str(file.parent.parent) if inside else "FOLDER"
    moved = "" if inside else f"save it as FOLDER/{group}/{file.stem}.yaml and "
    own = f"{moved}write --config-dir {folder} {group}={file.stem}"
    if group != "recipe":
        return f"a choice is a name, not a file; {own}"
    return (
        f"a choice is a name, not a file; for a recipe of SparseML's write recipe=sparseml "
        f"recipe.path={file}; for one of sparsekit's {own}"
    )


def _no_key(key: str, parent: DictConfig, overrides: Sequence[str]) -> str:
    """The message for a key that the config does not have, with the nearest one beside it."""
    head, _, name = key.rpartition(".")
    prefix = f"{head}." if head else ""
    # Of a longer key too, but not of one that begins with the same letters.
    word = next((w for w in overrides if re.match(rf"[+~]*{re.escape(key)}(?=[.=]|$)", w)), key)
    values = OmegaConf.to_container(parent, resolve=False)
    assert isinstance(values, dict)
    keys = {str(known) for known in values} - {"hydra"}
    fields = _fields(values.get("_target_"))
    if not head:
        keys |= set(GROUPS_ALONE)
        inner = [str(g) for g, node in values.items() if isinstance(node, dict) and name in node]
        if inner:
            return f"{word}: there is no key {key}; did you mean {inner[0]}.{name}?"
    if name in fields:
        return f"{word}: the config does not set {key} yet; write +{word}"
    known = sorted(keys | fields)
    if close := difflib.get_close_matches(name, known, n=1):
        plus = "" if close[0] in keys else "+"
        return f"{word}: there is no key {key}; did you mean {plus}{prefix}{close[0]}?"
    listed = f"; {head or 'the config'} has {', '.join(known)}" if len(known) <= LISTED else ""
    return f"{word}: there is no key {key}{listed}"


def _fields(target: object) -> set[str]:
    """The fields of the dataclass that a config node names as its target; empty if it is none."""
    try:
        target = locate(current_name(target)) if isinstance(target, str) else None
    except ImportError:
        return set()
    if not isinstance(target, type) or not dataclasses.is_dataclass(target):
        return set()
    return {field.name for field in dataclasses.fields(target) if field.init}


def _by_text(message: str) -> str:
    """Errors that differ only in their text."""
    if match := re.match(r"You must specify '([^']+)'", message):
        known = re.findall(r"^\t(\S+)", message, re.MULTILINE)
        return f"{match[1]} is not set: add {match[1]}=NAME; choose from {', '.join(known)}"
    if match := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'$", message, re.MULTILINE):
        key, value = match.groups()
        return f"{key}={value}: add -m to sweep over these values, or write {key}=[{value}]"
    if match := re.match(r"(\S+) appears more than once in the final defaults list", message):
        return f"+{match[1]}: {match[1]} is chosen already; leave out the +"
    if match := re.search(r"An item is already at '([^']+)'", message):
        return f"+{match[1]}: {match[1]} is set already; leave out the +"
    if match := re.match(r"Could not delete from config. '([^']+)' does not exist", message):
        return f"~{match[1]}: there is no key {match[1]}; --cfg job prints the keys"
    return _line(message)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ";"
    return f"{hint} choose from {', '.join(known)}"


def _line(message: str) -> str:
    return " ".join(message.split())
