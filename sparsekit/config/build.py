"""Objects from plain config values: `_target_` names the class, the other keys its arguments."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import sys
from typing import Any

from sparsekit.config.old_names import current_name
from sparsekit.config.types import type_problems
from sparsekit.errors import ConfigError, UserError, first_line, reworded

# Longer lists of fields are not printed.
LISTED = 20


def build(
    values: dict[str, Any], name: str, kind: type | None = None, *, trusted: bool = False
) -> Any:
    """Call what `values["_target_"]` names with the other keys as arguments.

    Args:
        values: plain, resolved values. Nested nodes stay as they are; the target builds them when
            it needs them.
        name: the key of this node in the config, for error messages.
        kind: a class that the target must derive from, so that a run folder or a recipe from
            elsewhere cannot name a function to be called.
        trusted: whether the values come from the user's own launch config, which may name any
            module. Otherwise `check_origin` refuses modules outside of sparsekit.

    Raises ConfigError that lists every unknown field, missing field and value of a wrong type. In
    errors of the target itself a field in backticks, as in "set `max_steps=1`", becomes its key,
    `training.max_steps=1`.
    """
    path = current_name(values["_target_"])
    arguments = {key: value for key, value in values.items() if key != "_target_"}
    if not isinstance(path, str):
        raise ConfigError(
            [f"{name}._target_ is {path!r}; it must name a class, as in package.Name"]
        )
    if not trusted:
        check_origin(path, f"{name}._target_")
    try:
        target = locate(path)
    except ImportError as error:
        reason = first_line(error)
        raise ConfigError([f"{name}._target_ {path!r} cannot be imported: {reason}"]) from error
    if kind is not None and not (isinstance(target, type) and issubclass(target, kind)):
        raise ConfigError([f"{name}: {path} is not a subclass of {kind.__name__}"])
    if isinstance(target, type) and dataclasses.is_dataclass(target):
        problems = _field_problems(target, arguments, name)
        problems += type_problems(target, arguments, name)
        if problems:
            raise ConfigError(problems)
    try:
        with reworded(lambda message: re.sub(r"`(\w+(?:=[^`]*)?)`", rf"{name}.\1", message)):
            return target(**arguments)
    except UserError:
        raise
    except Exception as error:  # whatever the target's own code raises
        raise ConfigError([f"{name}: {_reason(error)}"]) from error


def _reason(error: Exception) -> str:
    """
    >>> _reason(ValueError("x is 2, not 1")), _reason(KeyError("x")), _reason(ValueError())
    ('x is 2, not 1', "KeyError: 'x'", 'ValueError')
    """
    message = str(error)
    # What a class refuses says so in a sentence; of anything else the type is half of what it says.
    if message and isinstance(error, ValueError | TypeError):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def check_origin(path: str, key: str) -> None:
    """Raise ConfigError for a module outside of sparsekit that this program has not imported.

    Importing a module runs its code, which a file from elsewhere must not cause. `key` is where
    the file names it, for the error message.
    """
    module = path.rpartition(".")[0]
    if not path.startswith("sparsekit.") and module not in sys.modules:
        raise ConfigError(
            [
                f"{key} {path!r} is not a class of sparsekit, and a file from elsewhere may not "
                f"name other code; if you trust it, add --allow {module or path} to the command, "
                f"or in Python import {module or path} before you load the file"
            ]
        )


def locate(path: str) -> Any:
    """Import the object that a dotted path names: a class, a function or a class's method.

    Raises ImportError where there is no such object.

    >>> locate("pathlib.Path.cwd").__name__
    'cwd'
    """
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.import_module(module)
            for part in parts[length:]:
                found = getattr(found, part)
        except ModuleNotFoundError as error:
            # A class in the path, as in module.Class.method, is not a module: look further up.
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
        except (AttributeError, ValueError) as error:
            raise ImportError(str(error)) from error
        else:
            return found
    raise ImportError(f"there is no module {parts[0]!r}" if len(parts) > 1 else "it has no dot")


def _field_problems(target: type, arguments: dict[str, Any], name: str) -> list[str]:
    """Fields that the dataclass `target` needs and is not given, and keys that it does not have."""
    assert dataclasses.is_dataclass(target)
    fields = [field for field in dataclasses.fields(target) if field.init]
    known = {field.name for field in fields}
    problems = [
        f"{name} lacks {field.name}, which {target.__name__} needs: add {name}.{field.name}"
        for field in fields
        if field.name not in arguments and _required(field)
    ]
    problems += [
        f"{name}.{key} is not a field of {target.__name__}; {_hint(key, known)}"
        for key in sorted(arguments.keys() - known)
    ]
    return problems


def _required(field: dataclasses.Field[Any]) -> bool:
    unset = dataclasses.MISSING
    return field.default is unset and field.default_factory is unset


def _hint(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known)
    if len(known) <= LISTED and not close:
        return f"known: {', '.join(sorted(known))}"
    return f"did you mean {' or '.join(close)}?" if close else "leave it out"
