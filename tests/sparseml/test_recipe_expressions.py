"""`eval(...)` of SparseML's recipes: arithmetic, never executed, the same in both languages."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparseml_text import resolved

from sparsekit.config.resolvers import calc
from sparsekit.errors import UserError
from sparsekit.sparseml.recipes import expressions

VARIABLES = {"a": 3, "b": 0.25, "epochs": 13, "down": -2}


def expression_texts() -> st.SearchStrategy[str]:
    numbers = st.one_of(st.integers(0, 99).map(str), st.floats(0, 99, width=16).map(repr))
    leaves = st.one_of(numbers, st.sampled_from(sorted(VARIABLES)))

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        operator = st.sampled_from(["+", "-", "*", "/", "//", "%"])
        # Python itself would compute a tower of powers to its last digit.
        small = st.sampled_from(["-1", "0", "0.5", "2", "3"])
        return st.one_of(
            st.builds(lambda left, op, right: f"({left} {op} {right})", inner, operator, inner),
            st.builds(lambda left, op, right: f"{left} {op} {right}", inner, operator, inner),
            st.builds(lambda base, power: f"{base} ** {power}", inner, small),
            inner.map(lambda value: f"-{value}"),
            st.builds(lambda name, one, two: f"{name}({one}, {two})",
                      st.sampled_from(["min", "max"]), inner, inner),
        )  # fmt: skip

    return st.recursive(leaves, larger, max_leaves=6)


def python_value(text: str) -> Any:
    """The value in Python; None unless it is a finite real number."""
    try:
        value = eval(text, {"__builtins__": {"min": min, "max": max}}, dict(VARIABLES))
        return float(value) if math.isfinite(value) else None
    except (ArithmeticError, TypeError, ValueError):
        return None


@given(expression_texts())
def test_an_expression_has_the_value_that_python_gives_it(text: str) -> None:
    wanted = python_value(text)
    if wanted is None:
        with pytest.raises(UserError):
            expressions.evaluate(text, VARIABLES)
    else:
        assert expressions.evaluate(text, VARIABLES) == pytest.approx(wanted)


@given(expression_texts())
def test_an_expression_means_the_same_in_a_native_recipe(text: str) -> None:
    if python_value(text) is None:
        return
    written = expressions.interpolation(text)
    actual = resolved({**VARIABLES, "x": written})["x"]
    assert actual == pytest.approx(expressions.evaluate(text, VARIABLES))
    back = expressions.from_interpolation(written)
    assert back is not None
    assert expressions.evaluate(back, VARIABLES) == pytest.approx(actual)


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_users_error(text: str) -> None:
    try:
        value = expressions.evaluate(text, VARIABLES)
    except UserError:
        return
    assert isinstance(value, int | float)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('x')",
        "a.real",
        "a[0]",
        "(lambda: 1)()",
        "min.__call__(1, 2)",
        "[x for x in (1, 2)]",
        "a if a else b",
        "a and b",
        "'text'",
        "f'{a}'",
        "(a := 1)",
        "9 ** 9 ** 9 ** 9",
        "max(*a)",
        "1j",
    ],
)
def test_nothing_but_arithmetic_is_evaluated(text: str) -> None:
    with pytest.raises(UserError, match=r"eval|calc"):
        expressions.evaluate(text, VARIABLES)


def test_a_refused_call_or_attribute_is_named() -> None:
    with pytest.raises(UserError, match=r"refused: __import__ is neither .* arithmetic"):
        expressions.evaluate("__import__('os')", {})
    with pytest.raises(UserError, match=r"refused: a\.real"):
        expressions.evaluate("a.real + 1", VARIABLES)


def test_variables_resolve_in_any_order() -> None:
    values = expressions.resolve({"a": "eval(b * 2)", "b": "eval(c - 1)", "c": 4, "s": "linear"})
    assert values == {"a": 6, "b": 3, "c": 4, "s": "linear"}


def test_a_cycle_is_named() -> None:
    with pytest.raises(UserError, match="b -> c -> b"):
        expressions.resolve({"a": "eval(b)", "b": "eval(c + 1)", "c": "eval(b)"})


def test_an_unknown_variable_lists_the_known() -> None:
    with pytest.raises(UserError, match="no variable 'epoch'; there are a, b, down, epochs"):
        expressions.evaluate("epoch - 1", VARIABLES)


def test_arithmetic_over_text_is_refused() -> None:
    with pytest.raises(UserError, match="'s' is 'linear'"):
        expressions.evaluate("s + 1", {"s": "linear"})


def test_eval_among_other_text_is_refused() -> None:
    with pytest.raises(UserError, match="whole value"):
        expressions.expression("layer.eval(i).weight")


def test_calc_knows_what_sparsemls_expressions_use() -> None:
    assert calc("2 ** 3 + abs(-1) + int(2.7)") == 11


@pytest.mark.parametrize("name", ["ma", "mi", "ab", "max_"])
def test_a_variable_may_have_the_letters_of_a_function(name: str) -> None:
    text = f"max({name}, 2) + min(1, {name})"
    written = expressions.interpolation(text)
    assert written == f"${{calc:'max(${{recipe.{name}}}, 2) + min(1, ${{recipe.{name}}})'}}"
    assert expressions.rename(text, {name: "x", "max": "y"}) == "max(x, 2) + min(1, x)"
