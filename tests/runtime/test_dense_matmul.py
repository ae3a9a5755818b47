"""Products of matrices around the encoder, beside numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from compiler import needs_compiler

from sparsekit.runtime.sparse.dense_matmul import matmul

pytestmark = needs_compiler


@pytest.mark.parametrize(
    ("shape", "columns"),
    [
        *[((1, rows, 24), columns) for rows in (1, 3, 4, 5, 9) for columns in (1, 15, 16, 48, 130)],
        *[((2, 7, 33), 17), ((2, 3, 4, 5), 6), ((1, 4, 1), 1), ((3, 20), 5)],
        *[((2, 0, 4), 3), ((0, 2, 4), 3), ((2, 8, 0), 3), ((1, 8, 4), 0)],
    ],
)
def test_equals_a_product_in_float64(shape: tuple[int, ...], columns: int) -> None:
    random = np.random.default_rng(0)
    a = random.standard_normal(shape).astype(np.float32)
    b = random.standard_normal((shape[-1], columns)).astype(np.float32)
    product = matmul(a, b)
    assert product.dtype == np.float32 and product.shape == (*shape[:-1], columns)
    np.testing.assert_allclose(product, a.astype(np.float64) @ b.astype(np.float64), atol=1e-5)
    transposed = np.ascontiguousarray(b.T).T
    np.testing.assert_allclose(matmul(a, transposed), product, atol=1e-5)


def test_a_row_does_not_depend_on_the_others() -> None:
    random = np.random.default_rng(0)
    a = random.standard_normal((3, 11, 50)).astype(np.float32)
    b = random.standard_normal((50, 70)).astype(np.float32)
    product = matmul(a, b)
    for start in range(11):
        for end in range(start + 1, 12):
            part = matmul(a[1:2, start:end], b)
            np.testing.assert_array_equal(part, product[1:2, start:end])


def test_other_operands_are_left_to_numpy() -> None:
    several = np.ones((2, 5, 3), np.float32), np.ones((2, 3, 4), np.float32)
    np.testing.assert_array_equal(matmul(*several), np.full((2, 5, 4), 3))
    assert matmul(np.ones((1, 5, 3)), np.ones((3, 2))).dtype == np.float64
    nan = np.full((1, 8, 2), np.nan, np.float32)
    assert np.isnan(matmul(nan, np.ones((2, 2), np.float32))).all()


def test_matrices_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="the first has 3 columns, the second 4 rows"):
        matmul(np.ones((1, 8, 3), np.float32), np.ones((4, 5), np.float32))
