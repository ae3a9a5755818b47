"""Metrics of rows that have any number of labels, and the threshold that decides about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError

METRICS = ("f1_micro", "f1_macro", "average_precision")
# The threshold where none was tuned.
DEFAULT_THRESHOLD = 0.5
Array = npt.NDArray[np.floating]
Counts = npt.NDArray[np.int64]


def probabilities_of(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The sigmoid of logits, in float64.

    >>> probabilities_of([0.0, -1000.0]).tolist()
    [0.5, 0.0]
    """
    values = np.asarray(logits, dtype=np.float64)
    powers = np.exp(-np.abs(values))  # at most 1, whatever the sign
    sigmoid: npt.NDArray[np.float64] = np.where(values >= 0, 1.0, powers) / (1.0 + powers)
    return sigmoid


def best_threshold(probabilities: Array, true: Array) -> float:
    """The threshold with the greatest micro F1, both arrays [rows, labels].

    It is more than 0 and lies midway between two neighbouring probabilities; of equally good ones
    the nearest to 0.5 is chosen. Without any true label it is 0.5.

    >>> best_threshold(np.array([[0.9, 0.2], [0.3, 0.1]]), np.array([[1, 0], [1, 0]]))
    0.25
    """
    order = np.argsort(-probabilities, axis=None, kind="stable")
    sorted_probabilities, hits = probabilities.ravel()[order], np.cumsum(true.ravel()[order])
    if not len(hits) or not hits[-1]:
        return DEFAULT_THRESHOLD
    taken = np.arange(1, len(order) + 1)
    f1 = 2 * hits / (taken + hits[-1])
    following = np.append(sorted_probabilities[1:], 0.0)
    # No threshold separates equal probabilities.
    f1[sorted_probabilities == following] = -1.0
    middles = (sorted_probabilities + following) / 2
    best = np.flatnonzero(f1 == f1.max())
    return float(min(middles[best], key=lambda middle: abs(middle - DEFAULT_THRESHOLD)))


def compute(
    names: Sequence[str], probabilities: Array, true: Array, threshold: float
) -> dict[str, float]:
    """The named metrics of `METRICS`, as scikit-learn defines them.

    F1 is 0 for a label that is neither true nor predicted. `average_precision` is the mean over the
    labels that at least one row has; the others have no curve.

    Args:
        names: of metrics.
        probabilities: of each label, [rows, labels].
        true: 0 or 1, [rows, labels].
        threshold: the least probability of a predicted label.

    Raises UserError for probabilities that are not finite, and where no row has a label.
    """
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        raise UserError(
            f"the logits of row {int(finite.argmin())} are not finite: training diverged; lower "
            "recipe.init_lr or train in fp32"
        )
    hits, predicted, wanted = _counts(probabilities, true, threshold)
    functions: dict[str, Callable[[], Any]] = {
        "f1_micro": lambda: _f1(hits.sum(), predicted.sum(), wanted.sum()),
        "f1_macro": lambda: _f1(hits, predicted, wanted),
        "average_precision": lambda: _mean_average_precision(probabilities, true),
    }
    return {name: float(np.mean(functions[name]())) for name in dict.fromkeys(names)}


def report(
    probabilities: Array, true: Array, threshold: float, label_names: Sequence[str]
) -> dict[str, Any]:
    """Precision, recall, F1 and average precision of each label, and how many rows have it.

    The arrays are those of `compute`. Average precision is None for a label that no row has.
    """
    hits, predicted, wanted = _counts(probabilities, true, threshold)
    columns = {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, wanted),
        "f1": _f1(hits, predicted, wanted),
    }
    areas = _average_precisions(probabilities, true)
    return {
        label: {name: float(column[i]) for name, column in columns.items()}
        | {"average_precision": areas[i], "rows": int(wanted[i])}
        for i, label in enumerate(label_names)
    }


def _counts(probabilities: Array, true: Array, threshold: float) -> tuple[Counts, ...]:
    """Counts of true positives, predicted rows and true rows of each label, each [labels]."""
    predicted, wanted = probabilities >= threshold, true.astype(bool)
    hits = predicted & wanted
    return hits.sum(axis=0), predicted.sum(axis=0), wanted.sum(axis=0)


def _f1(hits: Any, predicted: Any, wanted: Any) -> Any:
    return _ratio(2 * hits, predicted + wanted)


def _ratio(part: Any, whole: Any) -> Any:
    """The quotient, 0 where both are 0."""
    return part / np.maximum(whole, 1)


def _average_precisions(probabilities: Array, true: Array) -> list[float | None]:
    """The average precision of each label; None for those that no row has."""
    from sklearn.metrics import average_precision_score  # a second

    return [
        float(average_precision_score(wanted, scores)) if wanted.any() else None
        for wanted, scores in zip(true.T, probabilities.T, strict=True)
    ]


def _mean_average_precision(probabilities: Array, true: Array) -> float:
    areas = [area for area in _average_precisions(probabilities, true) if area is not None]
    if not areas:
        raise UserError(
            f"dataset.metrics: average_precision is undefined for {len(true)} rows without any "
            "label; name f1_micro, or add rows with labels to the split"
        )
    return float(np.mean(areas))
