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
import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


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


_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max, "round": round}


def calc(expression: str) -> float:
    """Evaluate arithmetic: numbers, `+ - * / // %`, `< <= > >=`, parentheses, min, max, round.

    >>> calc("13 - 5"), calc("max(0, 2 - 5)"), calc("5 > 0")
    (8, 0, True)
    """

    def value(node: ast.AST) -> float:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return number
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(operand))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*(value(arg) for arg in args))
        raise UserError(
            f"calc cannot evaluate {expression!r}: only numbers, + - * / // %, one of < <= > >=, "
            f"parentheses and {', '.join(_FUNCTIONS)} are allowed"
        )

    try:
        return value(ast.parse(str(expression).strip(), mode="eval"))
    except (SyntaxError, ZeroDivisionError, TypeError) as error:
        raise UserError(f"calc cannot evaluate {expression!r}: {error}") from error


OmegaConf.register_new_resolver("calc", calc, replace=True)


def cache_folder() -> Path:
    """Where teachers, their logits and quickstart models are kept: `$SPARSEKIT_CACHE`."""
    return Path(os.environ.get("SPARSEKIT_CACHE", "~/.cache/sparsekit")).expanduser()


def plain(node: DictConfig) -> dict[str, Any]:
    """The node as plain Python, interpolations resolved.

    Raises ConfigError naming every value that is still to be given.
    """
    missing = sorted(OmegaConf.missing_keys(node))
    if missing:
        raise ConfigError([f"{key} is not set: add {key}=VALUE" for key in missing])
    try:
        container = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([first_line(error)]) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def build(node: DictConfig | dict[str, Any], name: str) -> Any:
    """Build what the node's `_target_` names from its other keys; `name` is used in errors.

    Nested nodes stay plain values, for the target to build when it needs them. Raises ConfigError
    for a field that the target does not have, listing those that it has.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import get_object, instantiate

    values = plain(node) if isinstance(node, DictConfig) else node
    try:
        target = get_object(values["_target_"])
    except (ImportError, ValueError) as error:
        raise ConfigError([f"{name}._target_ {values['_target_']!r} cannot be imported"]) from error
    if isinstance(target, type) and dataclasses.is_dataclass(target):
        known = {field.name for field in dataclasses.fields(target) if field.init}
        unknown = sorted(values.keys() - known - {"_target_"})
        if unknown:
            raise ConfigError(
                [
                    f"{name}.{key} is no field of {target.__name__}; {_hint(key, known)}"
                    for key in unknown
                ]
            )
    try:
        return instantiate(values, _convert_="all", _recursive_=False)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise ConfigError([f"{name}: {error.__cause__ or error}"]) from error


def _hint(key: str, known: set[str]) -> str:
    if len(known) <= 20:
        return f"known: {', '.join(sorted(known))}"
    return f"did you mean {' or '.join(difflib.get_close_matches(key, known, cutoff=0))}?"


def config_hash(values: dict[str, Any]) -> str:
    """A short content hash of plain config values, equal across machines and key order."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
