"""The edge between Hydra's config and everything else: resolver, strict building, hashing, saving.

Nothing past this module and `run` and `recipe` sees a DictConfig. Imports no torch, so that
`launch.py --cfg job` starts at once.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import json
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sparsekit.fields import type_problems

# torchrun numbers the processes that train one model; the first alone keeps what they made.
FIRST_PROCESS = os.environ.get("RANK", "0") == "0"
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
# Keys that say where a run is kept, shown and repeated, not what it is.
NOT_IDENTITY = ("output_dir", "tracking", "sweep")


class UserError(Exception):
    """A mistake that the user can mend: the message names the value, the limit and the fix."""


class ConfigError(UserError):
    """Every problem found in a config, collected, so that one run shows them all."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        listed = "".join(f"\n- {problem}" for problem in self.problems)
        super().__init__(
            self.problems[0]
            if len(self.problems) == 1
            else f"{len(self.problems)} problems{listed}"
        )


def _power(base: float, exponent: float) -> float:
    """`base ** exponent`; whole numbers stay whole where that is small, since 9**9**9 is not."""
    power = math.pow(base, exponent)
    exact = isinstance(base, int) and isinstance(exponent, int) and abs(power) < 2**53
    return int(power) if exact and exponent >= 0 else power


_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "round": round,
    "abs": abs,
    "int": int,
    "float": float,
}


def calc(expression: str, variables: Mapping[str, float] | None = None) -> float:
    """Evaluate arithmetic: numbers, names in `variables`, `+ - * / // % **`, comparisons, min ...

    Nothing but what is listed here is ever called. Raises UserError for all else.

    >>> calc("13 - 5"), calc("max(0, 2 - 5)"), calc("5 > 0"), calc("a / 2", {"a": 3})
    (8, 0, True, 1.5)
    """
    known = variables or {}

    def value(node: ast.AST) -> float:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return number
            case ast.Name(id=name) if name in known:
                return known[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(operand))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](*(value(arg) for arg in args))
        raise UserError(
            f"calc cannot evaluate {expression!r}: only numbers, + - * / // % **, one of "
            f"< <= > >=, parentheses and {', '.join(FUNCTIONS)} are allowed"
        )

    try:
        result = value(ast.parse(str(expression).strip(), mode="eval"))
        if not math.isfinite(result):
            raise ValueError(f"the result is {result}")
    except (SyntaxError, ArithmeticError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"calc cannot evaluate {expression!r}: {error}") from error
    return result


OmegaConf.register_new_resolver("calc", calc, replace=True)


def cache_folder() -> Path:
    """Where teachers, their logits and quickstart models are kept: `$SPARSEKIT_CACHE`."""
    return Path(os.environ.get("SPARSEKIT_CACHE", "~/.cache/sparsekit")).expanduser()


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


def config_hash(values: dict[str, Any]) -> str:
    """A short content hash of plain config values, equal across machines and key order."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity_hash(values: Mapping[str, Any]) -> str:
    """The hash of what a run is: its resolved config without where it is kept, shown and swept."""
    identifying = {key: value for key, value in values.items() if key not in NOT_IDENTITY}
    if "training" in values:
        training = values["training"]
        identifying["training"] = {k: v for k, v in training.items() if k != "output_dir"}
    return config_hash(identifying)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
