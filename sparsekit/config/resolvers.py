"""Arithmetic in config values: `${calc:'13 - 5'}`."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

from omegaconf import OmegaConf

from sparsekit.errors import UserError


def _power(base: float, exponent: float) -> float:
    """`base ** exponent` as an integer if both are integers and the result is below 2**53.

    Larger powers are floats, so that 9**9**9 overflows instead of computing for hours.
    """
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
    """Evaluate an arithmetic expression.

    It may use numbers, names in `variables`, `+ - * / // % **`, one comparison, parentheses and
    the functions in `FUNCTIONS`; nothing else is ever called. Raises UserError for anything else,
    and for a result that is not finite.

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


def register_calc() -> None:
    """Give OmegaConf the resolver `calc`; calling it again changes nothing."""
    OmegaConf.register_new_resolver("calc", calc, replace=True)
