"""Config values checked against the types that a dataclass declares."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_DESCRIPTIONS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text (in quotes where it reads as a number or true: \"'7'\")",
    list: "a list, as in [a,b]",
    dict: "a mapping",
    NoneType: "null",
}


def type_problems(target: type, values: Mapping[str, Any], name: str) -> list[str]:
    """A problem for each of `values` whose type is not that of `target`'s field of that name.

    `name` is the key of the node in the config, for the messages.
    """
    hints = _hints(target)
    return [
        f"{name}.{key} is {value!r}; it must be {_expected(value, hints[key])}"
        for key, value in values.items()
        if key in hints and not fits(value, hints[key])
    ]


def _hints(target: type) -> dict[str, Any]:
    """The types of `target`'s fields, and of its bases'.

    Without those that do not resolve, such as a class that a user's module imports for a type
    checker alone: their class checks such values itself.
    """
    hints: dict[str, Any] = {}
    for base in reversed(target.__mro__):
        for name, annotation in vars(base).get("__annotations__", {}).items():
            single = {"__annotations__": {name: annotation}, "__module__": base.__module__}
            hints.pop(name, None)
            # Whatever evaluating the annotation raises.
            with contextlib.suppress(Exception):
                hints |= get_type_hints(type(base.__name__, (), single))
    return hints


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value (number, text, list, mapping, None) has the type `hint`.

    Integers count as floats, 0 and 1 as booleans, infinities and NaN as no number. Types that yaml
    cannot express are accepted: their classes check them.

    >>> fits(2, float), fits("2", float), fits(True, int), fits(["a"], str | list[str])
    (True, False, False, True)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, choice) for choice in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(fits(v, arguments[1]) for v in value.values())
    if hint is bool:
        return isinstance(value, bool) or value in (0, 1)
    if hint in (int, float):
        known = int if hint is int else int | float
        return isinstance(value, known) and not isinstance(value, bool) and not _infinite(value)
    return isinstance(value, hint) if hint in _DESCRIPTIONS else True


def _infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _expected(value: Any, hint: Any) -> str:
    return f"{'finite: ' if _infinite(value) else ''}{describe(hint)}"


def describe(hint: Any) -> str:
    """The type as an error message names it.

    >>> describe(int | None), describe(list[str])
    ('a whole number or null', 'a list, as in [a,b]')
    """
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(describe(choice) for choice in get_args(hint))
    if origin is Literal:
        return " or ".join(map(str, get_args(hint)))
    return _DESCRIPTIONS.get(origin or hint, str(hint))
