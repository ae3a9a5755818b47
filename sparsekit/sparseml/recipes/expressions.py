"""SparseML's `eval(...)` expressions: arithmetic over a recipe's variables, parsed, never run."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

from sparsekit.config.resolvers import FUNCTIONS, calc
from sparsekit.errors import UserError

_EVAL = re.compile(r"eval\((.*)\)", re.DOTALL)


def expression(value: Any) -> str | None:
    """The text within `eval(...)`; None for any other value.

    >>> expression("eval(num_epochs - 1)"), expression("linear")
    ('num_epochs - 1', None)
    """
    if not isinstance(value, str):
        return None
    matched = _EVAL.fullmatch(value.strip())
    if matched is None and "eval(" in value:
        raise UserError(f"{value!r} has eval( within other text; make the whole value eval(...)")
    return matched[1].strip() if matched else None


def map_expressions(value: Any, change: Callable[[str], Any]) -> Any:
    """`value` with each `eval(...)` in it, at any depth, replaced by `change(its expression)`."""
    if isinstance(value, dict):
        for key in value:
            if expression(key) is not None:
                raise UserError(f"{key}: an expression cannot be a key; write its value")
        return {key: map_expressions(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [map_expressions(item, change) for item in value]
    text = expression(value)
    return value if text is None else change(text)


def names(text: str) -> list[str]:
    """The variables of an expression in order; raises UserError unless it is arithmetic."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"eval({text}) is not an expression: {error}") from error
    called = {id(node.func): node.func for node in nodes if isinstance(node, ast.Call)}
    foreign = [f for f in called.values() if not (isinstance(f, ast.Name) and f.id in FUNCTIONS)]
    foreign += [node for node in nodes if isinstance(node, ast.Attribute | ast.Subscript)]
    if foreign:
        raise UserError(
            f"eval({text}) is refused: {ast.unparse(foreign[0])} is neither a variable nor one of "
            f"{', '.join(FUNCTIONS)}; an expression may hold arithmetic over variables only"
        )
    variables = [n for n in nodes if isinstance(n, ast.Name) and id(n) not in called]
    variables.sort(key=lambda node: (node.lineno, node.col_offset))
    return list(dict.fromkeys(node.id for node in variables))


def evaluate(text: str, variables: Mapping[str, Any]) -> Any:
    """The value of an expression: arithmetic on numbers, or one variable with any value.

    Raises UserError for an unknown variable, and for anything but arithmetic.
    """
    used = names(text)
    for name in used:
        if name not in variables:
            listed = ", ".join(sorted(variables)) or "none"
            raise UserError(f"eval({text}): there is no variable {name!r}; there are {listed}")
    if used == [text]:
        return variables[text]
    for name in used:
        if isinstance(variables[name], bool) or not isinstance(variables[name], int | float):
            raise UserError(
                f"eval({text}): variable {name!r} is {variables[name]!r}, and arithmetic needs "
                "a number"
            )
    return calc(text, {name: variables[name] for name in used})


def resolve(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Every variable's value, expressions evaluated; raises UserError naming a cycle."""
    done: dict[str, Any] = {}

    def value(name: str, path: tuple[str, ...]) -> Any:
        if name in path:
            cycle = " -> ".join([*path[path.index(name) :], name])
            raise UserError(f"the recipe's variables form a cycle: {cycle}; give one a number")
        if name not in done:
            inner = (*path, name)

            def known(text: str) -> Any:
                below = {n: value(n, inner) for n in names(text) if n in variables}
                return evaluate(text, {**dict.fromkeys(variables), **below})

            done[name] = map_expressions(variables[name], known)
        return done[name]

    return {name: value(name, ()) for name in variables}


def rename(text: str, new_names: Mapping[str, str]) -> str:
    """The expression with variables renamed.

    >>> rename("a + min(b, 2)", {"b": "c"})
    'a + min(c, 2)'
    """
    if not any(new_names.get(name, name) != name for name in names(text)):
        return text
    return _with_names(text, lambda name: new_names.get(name, name))


def _with_names(text: str, new: Callable[[str], str]) -> str:
    """The expression with `new(name)` for each variable; functions keep their names."""
    tree = ast.parse(text, mode="eval")
    nodes = list(ast.walk(tree))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.Name) and id(node) not in called:
            node.id = new(node.id)
    return ast.unparse(tree)


def interpolation(text: str) -> str:
    """The expression as a native recipe writes it.

    >>> interpolation("num_epochs"), interpolation("num_epochs - 1")
    ('${recipe.num_epochs}', "${calc:'${recipe.num_epochs} - 1'}")
    """
    if names(text) == [text]:
        return f"${{recipe.{text}}}"
    # Parentheses, since a power binds tighter than the sign of a negative value.
    form = "(${{recipe.{}}})" if "**" in text else "${{recipe.{}}}"
    written = _with_names(text, form.format)
    return f"${{calc:'{written}'}}"


def from_interpolation(text: str) -> str | None:
    """The expression of a native `${recipe.x}` or `${calc:'...'}`; None for any other text.

    >>> from_interpolation("${calc:'${recipe.num_epochs} - 1'}")
    'num_epochs - 1'
    """
    # In a field of a modifier, `...` also refers to the recipe.
    single = re.fullmatch(r"\$\{(?:recipe\.|\.\.\.)(\w+)\}", text)
    if single:
        return single[1]
    whole = re.fullmatch(r"\$\{calc:(['\"])(.*)\1\}", text, re.DOTALL)
    if whole is None:
        return None
    inner = re.sub(r"\$\{(?:recipe\.|\.\.\.)(\w+)\}", r"\1", whole[2])
    return None if "${" in inner else inner
