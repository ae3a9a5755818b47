"""A teacher whose classes are numbered in another order is found by its accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from sparsekit.metrics.label_order import below_chance, fitting_order, order_problem

NAMES = ["delivery", "payment", "refund"]
LABELS = np.arange(300) % 3


def shifted(by: int) -> np.ndarray:
    """Logits that answer `label + by` for all rows but the first of every ten."""
    answers = np.where(np.arange(300) % 10, (LABELS + by) % 3, LABELS)
    return np.eye(3)[answers] * 4


def test_another_order_is_refused_with_the_one_that_fits() -> None:
    assert fitting_order(shifted(1), LABELS) == ([1, 2, 0], pytest.approx(0.9))
    problem = order_problem("t", shifted(1), LABELS, NAMES)
    assert problem is not None
    # Output 1 fires for class 0, so it means delivery.
    assert "an accuracy of 10.0% on the validation split, far below the 33.3% of guess" in problem
    assert (
        "It would have 90.0% if what is taken for delivery, payment, refund were refund, delivery"
        in problem
    )


@pytest.mark.parametrize("classes", [2, 5])
def test_a_teacher_that_guesses_is_not_refused(classes: int) -> None:
    random = np.random.default_rng(0)
    labels, logits = random.integers(0, classes, 500), random.normal(size=(500, classes))
    names = [f"class {index}" for index in range(classes)]
    assert order_problem("t", logits, labels, names) is None
    constant = np.tile(np.eye(classes)[0], (500, 1))
    assert order_problem("t", constant, labels, names) is None


def test_few_rows_prove_nothing() -> None:
    assert not below_chance(0.0, rows=10, classes=2)
    assert below_chance(0.0, rows=20, classes=2)
    assert order_problem("t", shifted(0), LABELS, NAMES) is None
