"""Regression metrics of predicted values against targets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError
from sparsekit.metrics.embedding import spearman

METRICS = ("pearson", "spearman", "mse")
Array = npt.NDArray[np.floating]


def compute(names: list[str], predicted: Array, true: Array) -> dict[str, float]:
    """The named metrics of `METRICS`, both arrays [rows].

    Raises UserError where a correlation is undefined, and for values that are not finite.

    >>> compute(["pearson", "mse"], np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0]))
    {'pearson': 1.0, 'mse': 1.0}
    """
    if not np.isfinite(predicted).all():
        raise UserError(
            f"the answer to row {int(np.isfinite(predicted).argmin())} is not finite: training "
            "diverged; lower recipe.init_lr or train in fp32"
        )
    functions = {"pearson": _pearson, "spearman": spearman, "mse": _mse}
    return {name: functions[name](predicted, true) for name in dict.fromkeys(names)}


def _pearson(predicted: Array, true: Array) -> float:
    if len(true) < 2 or not predicted.std() or not true.std():
        raise UserError(
            f"dataset.metrics: pearson is undefined for {len(true)} rows with "
            f"{len(np.unique(true))} different numbers and {len(np.unique(predicted))} different "
            "answers; name mse, or add rows to the split"
        )
    return float(round(np.corrcoef(predicted, true)[0, 1], 12))


def _mse(predicted: Array, true: Array) -> float:
    return float(np.square(predicted - true).mean())
