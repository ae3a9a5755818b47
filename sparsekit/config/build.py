"""The edge between Hydra's config and everything else: resolver, strict building, hashing, saving.

Nothing past this module and `run` and `recipe` sees a DictConfig. Imports no torch, so that
`launch.py --cfg job` starts at once.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sparsekit.config.old_names import current_name
from sparsekit.config.types import type_problems
from sparsekit.errors import ConfigError, UserError, first_line


def plain(node: DictConfig) -> dict[str, Any]:
    """The node as plain Python, interpolations resolved.

    Raises ConfigError naming every value that is still to be given.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(node))
        if missing:
            raise ConfigError([f"{key} is not set: add {key}=VALUE" for key in missing])
        container = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise _cause(error) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _cause(error: OmegaConfBaseException) -> ConfigError:
    """What lies under an error of OmegaConf, which keeps a resolver's own error as its context."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ConfigError):
            return below
        if isinstance(below, UserError):
            return ConfigError([str(below)])
        if isinstance(below, MissingMandatoryValue):
            key = first_line(below).rpartition(" ")[2]
            return ConfigError([f"{key} is not set: add {key}=VALUE"])
        below = below.__context__
    return ConfigError([first_line(error)])


def build(node: DictConfig | dict[str, Any], name: str, kind: type | None = None) -> Any:
    """Build what the node's `_target_` names from its other keys; `name` is used in errors.

    `kind` is what the target must be a class of, so that a run folder or a recipe that came from
    elsewhere cannot name a function for it to be called. Nested nodes stay plain values, for the
    target to build when it needs them. Raises ConfigError for a field that the target does not
    have, listing those that it has, and for a value of another type than the field's.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import get_object, instantiate

    values = plain(node) if isinstance(node, DictConfig) else node
    values = {**values, "_target_": current_name(values["_target_"])}
    try:
        target = get_object(values["_target_"])
    except (ImportError, ValueError) as error:
        raise ConfigError([f"{name}._target_ {values['_target_']!r} cannot be imported"]) from error
    if kind is not None and not (isinstance(target, type) and issubclass(target, kind)):
        raise ConfigError([f"{name}: {values['_target_']} is no {kind.__name__}"])
    if isinstance(target, type) and dataclasses.is_dataclass(target):
        fields = [field for field in dataclasses.fields(target) if field.init]
        known = {field.name for field in fields}
        problems = [
            f"{name} lacks {field.name}, which {target.__name__} needs: add {name}.{field.name}"
            for field in fields
            if field.name not in values and _required(field)
        ]
        problems += [
            f"{name}.{key} is no field of {target.__name__}; {_hint(key, known)}"
            for key in sorted(values.keys() - known - {"_target_"})
        ]
        problems += type_problems(target, values, name)
        if problems:
            raise ConfigError(problems)
    try:
        return instantiate(values, _convert_="all", _recursive_=False)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise ConfigError([f"{name}: {error.__cause__ or error}"]) from error


def _required(field: dataclasses.Field[Any]) -> bool:
    none = dataclasses.MISSING
    return field.default is none and field.default_factory is none


def _hint(key: str, known: set[str]) -> str:
    if len(known) <= 20:
        return f"known: {', '.join(sorted(known))}"
    return f"did you mean {' or '.join(difflib.get_close_matches(key, known, cutoff=0))}?"
