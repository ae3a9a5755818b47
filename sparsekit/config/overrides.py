"""The values that the command line set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def overridden_values(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The value of each key that the command line set; for a group choice, its name.

    `values` is the resolved config, `overrides` the words of the command line.

    >>> config = {"recipe": {"x": 0.5}, "student": {"checkpoint": "a"}}
    >>> overridden_values(config, ["recipe.x=.5", "student=b"])
    {'recipe.x': 0.5, 'student': 'b'}
    """
    overridden = {}
    for override in overrides:
        key, _, text = override.lstrip("+~").partition("=")
        value: Any = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        overridden[key] = text if value is None or isinstance(value, Mapping | list) else value
    return overridden
