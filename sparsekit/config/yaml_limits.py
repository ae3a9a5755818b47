"""Limits on YAML from elsewhere, before it is built: its nesting, and what aliases expand to."""

from __future__ import annotations

from typing import Any

import yaml

from sparsekit.errors import UserError

# libyaml where PyYAML has it: ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Far more than any config or recipe holds; aliases within aliases reach it at once.
MOST_VALUES = 100_000
# Deeper ones end Python's recursion, or that of libyaml.
MOST_LEVELS = 100


def check_yaml(text: str | bytes, name: str) -> None:
    """Raise UserError for YAML that nests too deeply or, its aliases expanded, holds too much.

    Text that is not YAML is left to whoever reads it; `name` is used in the message.
    """
    sizes: dict[str | None, int] = {}
    # The anchor of each open collection, and how many values stood before it.
    open_collections: list[tuple[str | None, int]] = []
    values = 0
    try:
        for event in yaml.parse(text, _Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                open_collections.append((event.anchor, values))
                values += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_collections.pop()
                if anchor is not None:
                    sizes[anchor] = values - before
            elif isinstance(event, yaml.AliasEvent):
                values += sizes.get(event.anchor, MOST_VALUES)
            elif isinstance(event, yaml.ScalarEvent):
                values += 1
                if event.anchor is not None:
                    sizes[event.anchor] = 1
            if len(open_collections) > MOST_LEVELS:
                raise UserError(
                    f"{name} nests more than {MOST_LEVELS} levels of YAML; write it flatter"
                )
            if values > MOST_VALUES:
                raise UserError(
                    f"{name} holds more than {MOST_VALUES} values: an alias stands within its "
                    "own anchor, or in too many others; write its content out"
                )
    except yaml.YAMLError:
        return
