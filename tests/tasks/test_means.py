"""The mean of several teachers' outputs, and what is said where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from sparsekit.errors import UserError
from sparsekit.tasks.means import mean_of_rows, mean_of_words


def test_the_mean_of_rows_of_one_shape() -> None:
    found = mean_of_rows([np.array([[0.0, 2.0], [4.0, 6.0]]), np.array([[2.0, 2.0], [0.0, 0.0]])])
    assert np.array(found).tolist() == [[1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ([np.zeros(3)], "they read 1 and 2 rows; choose teachers with one tokenizer"),
        ([np.zeros(3), np.zeros(7)], r"in row 1 \(from 0\) they have the shapes \(5,\) and \(7,\)"),
    ],
    ids=["rows", "shapes"],
)
def test_what_differs_is_named(other: list[np.ndarray], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        mean_of_rows([[np.zeros(3), np.zeros(5)], other])


def test_a_word_that_a_teacher_lacks_has_the_mean_of_the_others() -> None:
    one, two = np.array([[1.0, 3.0]], np.float32), np.array([[3.0, 3.0], [5.0, 7.0]], np.float32)
    [mean, empty] = mean_of_words([[one, one[:0]], [two, two[:0]]])
    assert mean.tolist() == [[2, 3], [5, 7]]
    assert (mean.dtype, empty.shape) == (np.float32, (0, 2))
