"""Writes a native recipe as a SparseML recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from sparsekit.errors import ConfigError, UserError
from sparsekit.sparseml.recipes.expressions import from_interpolation
from sparsekit.sparseml.recipes.mapping import (
    EPOCH_RANGE,
    LEGACY,
    MODIFIERS,
    NEWER,
    PATTERNS,
    WINDOW,
    Mapped,
    translated,
)
from sparsekit.sparseml.recipes.text import Tagged

HEADER = "# Written by sparsekit for SparseML 1.8.\n"


class _Dumper(yaml.SafeDumper):
    """Writes Tagged as `!Modifier` with its fields, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    Tagged, lambda dumper, tagged: dumper.represent_mapping(f"!{tagged.kind}", tagged.fields)
)


def to_sparseml(
    written: Mapping[str, Any], resolved: Mapping[str, Any], modifiers: Mapping[str, Any]
) -> str:
    """The text of a SparseML recipe.

    Args:
        written: the native recipe's values with interpolations.
        resolved: the same values without interpolations.
        modifiers: the enabled modifiers by name, as dataclasses.

    Raises ConfigError with everything that SparseML does not support.
    """
    content: dict[str, Any] = {
        name: _value(value, resolved[name])
        for name, value in written.items()
        if name not in ("modifiers", "metadata", "path", "variables")
    }
    epochs = "eval(num_epochs)"
    length = Tagged(EPOCH_RANGE, {"start_epoch": 0.0, "end_epoch": epochs}, 0)
    content["training_modifiers"] = [length]
    problems = []
    nodes = written["modifiers"] if isinstance(written["modifiers"], Mapping) else {}
    for name, modifier in modifiers.items():
        try:
            kind, mapped = _counterpart(modifier)
            fields = _fields(modifier, nodes.get(name) or {}, kind, mapped, resolved["num_epochs"])
            if kind == "QuantizationModifier":
                fields = _in_one_form(fields)
        except UserError as error:
            problems.append(f"recipe.modifiers.{name}: {error}")
            continue
        content.setdefault(mapped.group, []).append(Tagged(kind, fields, 0))
    if problems:
        raise ConfigError(problems)
    return HEADER + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=100)


def _counterpart(modifier: Any) -> tuple[str, Mapped]:
    target = f"{type(modifier).__module__}.{type(modifier).__qualname__}"
    for kind, mapped in MODIFIERS.items():
        if mapped.target == target:
            return kind, mapped
    raise UserError(f"SparseML has no counterpart of {type(modifier).__name__}; remove it")


def _fields(
    modifier: Any, node: Mapping[str, Any], kind: str, mapped: Mapped, epochs: float
) -> dict[str, Any]:
    """The fields that are not null, with SparseML's names; a null end is that of training."""
    theirs = {ours: name for name, ours in {**WINDOW, **mapped.fields}.items()}
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(modifier):
        value = getattr(modifier, field.name)
        if field.name == "end" and mapped.endless:
            # An end at or after that of training has no effect.
            if value is not None and value < epochs:
                raise UserError(f"{kind} has no end, but it ends at epoch {value:g}; set end: null")
        elif field.name in theirs:
            if field.name == "end" and value is None:
                value = "eval(num_epochs)"
            if value is not None:
                written = _value(node.get(field.name, value), value)
                written = translated(written, PATTERNS)
                if field.name == "params" and isinstance(written, str):
                    written = _patterns(written)
                fields[theirs[field.name]] = written
        elif field.name != "enabled" and value != _default(field):
            raise UserError(f"{kind} has no field for {field.name}: {value!r}; remove it")
    return fields


def _patterns(written: str) -> str | list[str]:
    # SparseML takes a pattern in a list only; its keywords and expressions stand by themselves.
    return written if written.startswith(("__", "eval(")) else [written]


def _in_one_form(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a quantization in one of SparseML's two forms, the legacy one has `submodules`.

    In it null means the whole model, and an empty list would mean none of it.
    """
    newer = any(fields.get(name) for name in ("scheme", "scheme_overrides", "ignore"))
    chosen = {name: v for name, v in fields.items() if name not in (LEGACY if newer else NEWER)}
    return chosen if newer else {**chosen, "submodules": fields.get("submodules") or None}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _value(written: Any, resolved: Any) -> Any:
    """The value as an expression where SparseML can evaluate it, otherwise resolved."""
    text = from_interpolation(written) if isinstance(written, str) else None
    if text is None or any(sign in text for sign in "<>"):
        return resolved
    return f"eval({text})"
