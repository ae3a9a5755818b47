"""Operators of runtime=sparse around the encoder, beside the functions that they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sparsekit.errors import UserError
from sparsekit.runtime.sparse import operators
from sparsekit.runtime.sparse.graph import Node


def test_the_error_function() -> None:
    x = np.linspace(-7, 7, 20_001)
    exact = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(operators.erf(x), exact, atol=2e-7)
    assert operators.erf(x.astype(np.float32)).dtype == np.float32
    ends = operators.erf(np.array([-np.inf, -0.0, np.inf, np.nan], np.float32))
    np.testing.assert_allclose(ends, [-1, 0, 1, np.nan], atol=2e-7)


def test_the_first_of_equal_maxima() -> None:
    values = {"x": np.array([[1, 3, 3], [2, 0, 1]], np.float32)}
    operators.run([Node("find", "ArgMax", ("x",), ("y",), {"axis": -1, "keepdims": 0})], values)
    assert values["y"].tolist() == [1, 0]
    last = Node("find", "ArgMax", ("x",), ("y",), {"axis": -1, "select_last_index": 1})
    with pytest.raises(UserError, match=r"cannot compute ArgMax 'find'.*select_last_index"):
        operators.run([last], values)


FLOATS = np.array([-1.5, 2.0, 5.0], np.float32)
INTEGERS = np.array([7, -7, 6], np.int64)


@pytest.mark.parametrize(
    ("operator", "inputs", "expected"),
    [
        ("Div", [INTEGERS, np.array([2, 2, -4])], np.array([3, -3, -1])),
        ("Div", [np.array([200], np.uint8), np.array([3], np.uint8)], np.array([66], np.uint8)),
        ("Div", [FLOATS, np.float32([2])], np.array([-0.75, 1, 2.5], np.float32)),
        ("Pow", [FLOATS, np.array(2)], np.array([2.25, 4, 25], np.float32)),
        ("Pow", [INTEGERS, np.array(2.0, np.float32)], np.array([49, 49, 36])),
        ("Clip", [FLOATS], FLOATS),
        ("Clip", [FLOATS, np.float32(0)], np.array([0, 2, 5], np.float32)),
        ("Clip", [FLOATS, None, np.float32(3)], np.array([-1.5, 2, 3], np.float32)),
        ("Transpose", [np.ones((2, 3))], np.ones((3, 2))),
    ],
)
def test_operators_are_those_of_onnx(operator: str, inputs: list[Any], expected: Any) -> None:
    names = ["" if value is None else f"x{index}" for index, value in enumerate(inputs)]
    values = {name: value for name, value in zip(names, inputs, strict=True) if name}
    operators.run([Node("node", operator, tuple(names), ("y",), {})], values)
    np.testing.assert_array_equal(values["y"], expected, strict=True)
