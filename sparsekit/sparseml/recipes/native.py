"""Converts a SparseML recipe to a native one, with expressions as interpolations."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from sparsekit.errors import ConfigError, UserError
from sparsekit.sparseml.recipes.document import Document, Entry
from sparsekit.sparseml.recipes.expressions import (
    evaluate,
    expression,
    interpolation,
    map_expressions,
    resolve,
)
from sparsekit.sparseml.recipes.mapping import (
    EPOCH_RANGE,
    LEGACY,
    LEGACY_DEFAULTS,
    LOGGING,
    MODIFIERS,
    NEWER,
    NEWER_DEFAULTS,
    PATTERNS,
    WINDOW,
    Mapped,
    translated,
)

Values = dict[str, Any]


def native(document: Document, path: str) -> Values:
    """The native recipe of a document, with interpolations; `path` is for error messages.

    Raises ConfigError with the problems of all modifiers.
    """
    values = resolved(document, path)
    problems: list[str] = []
    modifiers: Values = {}
    for entry in document.entries:
        try:
            if entry.kind != EPOCH_RANGE:
                mapped = _mapped(entry)
                modifiers[_unused(mapped.name, modifiers)] = _modifier(entry, mapped, values)
            elif unknown := sorted(entry.fields.keys() - WINDOW.keys() - set(LOGGING)):
                raise UserError(f"{', '.join(unknown)}: not a field of {EPOCH_RANGE}; remove it")
        except UserError as error:
            problems.append(f"{path}, {entry.place}: {error}")
    if problems:
        raise ConfigError(problems)
    length = training_length(document, path)
    if "num_epochs" in values and not _is_num_epochs(length, values):
        return native(document.renamed("num_epochs", "num_epochs_variable"), path)
    variables = {
        name: map_expressions(_escaped(value), interpolation)
        for name, value in document.variables.items()
    }
    written = map_expressions(length, interpolation)
    # A variable num_epochs that is the training length becomes the native recipe's num_epochs.
    return {"num_epochs": written} | variables | {"modifiers": modifiers}


def _is_num_epochs(length: Any, values: Values) -> bool:
    # A number in the file that equals the variable counts as the variable.
    text = expression(length)
    return text == "num_epochs" or (text is None and values["num_epochs"] == length)


def evaluated(value: Any, values: Mapping[str, Any]) -> Any:
    """A field's value with its expressions evaluated for the values of variables."""
    return map_expressions(value, lambda text: evaluate(text, values))


def resolved(document: Document, path: str) -> Values:
    """The variables with their expressions evaluated."""
    try:
        return resolve(document.variables)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _mapped(entry: Entry) -> Mapped:
    if entry.kind not in MODIFIERS:
        known = sorted([*MODIFIERS, EPOCH_RANGE])
        near = difflib.get_close_matches(entry.kind, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"unknown modifier {entry.kind}; {hint}known: {', '.join(known)}")
    mapped = MODIFIERS[entry.kind]
    unknown = sorted(entry.fields.keys() - set(mapped.known))
    if unknown:
        raise UserError(
            f"{', '.join(unknown)}: not a field of {entry.kind}; it has {', '.join(mapped.known)}"
        )
    return mapped


def _modifier(entry: Entry, mapped: Mapped, values: Values) -> Values:
    """The native node of a modifier, with SparseML's defaults."""
    known = evaluated(entry.fields, values)
    for name, (accepted, fix) in mapped.fixed.items():
        if name in known and known[name] not in accepted:
            raise UserError(f"{name}: {known[name]!r} is not supported; {fix}")
    node: Values = {"_target_": mapped.target}
    defaults = dict(mapped.defaults)
    for name, fix in mapped.not_null.items():
        if name in known and known[name] is None:
            raise UserError(f"{name} is null: {fix}")
    if entry.kind == "QuantizationModifier":
        newer, legacy = (names & entry.fields.keys() for names in (NEWER, LEGACY))
        if not newer:
            defaults |= LEGACY_DEFAULTS if legacy else NEWER_DEFAULTS
    for name, ours in {**WINDOW, **mapped.fields}.items():
        value = known.get(name)
        written = entry.fields.get(name)
        unset = name in WINDOW and _is_unset(name, written, value)
        if value is None or unset or (name == "end_epoch" and mapped.endless):
            continue
        if isinstance(value, str):
            written = mapped.aliases.get(name, {}).get(value, written)
        written = translated(written, {theirs: own for own, theirs in PATTERNS.items()})
        node[ours] = map_expressions(_escaped(written), interpolation)
        defaults.pop(ours, None)
    one_target = "final_sparsity" in known and not isinstance(known["final_sparsity"], dict)
    if one_target and not known.get("params"):
        node["params"] = "__ALL_PRUNABLE__"
    return {**node, **defaults}


def _is_unset(name: str, written: Any, epoch: Any) -> bool:
    """Whether an epoch is the -1 that means "from the beginning" or "to the end" in SparseML.

    Raises UserError for other negative epochs, and for a -1 that an expression computes.
    """
    if not isinstance(epoch, int | float) or epoch >= 0:
        return False
    text = expression(written)
    if epoch == -1 and (text is None or text.isidentifier()):
        return True
    raise UserError(f"{name}: {text or written} is {epoch:g}, before epoch 0; set 0 or more")


def training_length(document: Document, path: str) -> Any:
    """The number of epochs as written: the last end of an EpochRange, otherwise of any window."""
    values = resolved(document, path)
    for entry in document.entries:
        for name in ("start_epoch", "end_epoch"):
            epoch = evaluated(entry.fields.get(name), values)
            if not isinstance(epoch, int | float | None) or isinstance(epoch, bool):
                raise UserError(
                    f"{path}, {entry.place}: {name} of {entry.kind} is {epoch!r}; write a number, "
                    "without quotes"
                )
    ranges = [entry for entry in document.entries if entry.kind == EPOCH_RANGE]
    ends = [
        entry.fields["end_epoch"]
        for entry in ranges or document.entries
        if number(evaluated(entry.fields.get("end_epoch"), values)) > 0
    ]
    if not ends:
        raise UserError(
            f"{path}: the number of epochs is missing; add !{EPOCH_RANGE} with start_epoch: 0 and "
            "an end_epoch above 0"
        )
    return max(ends, key=lambda end: number(evaluated(end, values)))


def number(value: Any) -> float:
    """An epoch as a float; -1, SparseML's value for no epoch, for anything else."""
    return float(value) if isinstance(value, int | float) else -1.0


def _escaped(value: Any) -> Any:
    """The value with text escaped that OmegaConf would read as an interpolation."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """`name`, with a number appended where another modifier has it.

    >>> _unused("pruning", {"pruning": {}})
    'pruning_2'
    """
    count = 2
    while name in taken:
        name = f"{name.removesuffix(f'_{count - 1}')}_{count}"
        count += 1
    return name
