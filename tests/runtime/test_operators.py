"""Operators of runtime=sparse around the encoder, beside the functions that they are."""

from __future__ import annotations

import math

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
