"""The differences of a gate as they are read: the model's score minus that of its baseline."""

from __future__ import annotations

from collections.abc import Mapping

from sparsekit.metrics.table import higher_is_better


def model_minus_baseline(
    metric: str, change: Mapping[str, float | None]
) -> tuple[float | None, float | None, float | None]:
    """The difference and the ends of its interval; None where there is none.

    change: `difference`, `lower` and `upper` as a gate tests them, above 0 where the model is the
        better one, also of a loss.

    >>> model_minus_baseline("mse", {"difference": -3.0, "lower": -4.0, "upper": -2.5})
    (3.0, 2.5, 4.0)
    """
    difference, lower, upper = (
        None if (value := change[key]) is None else shown_difference(metric, value)
        for key in ("difference", "lower", "upper")
    )
    return (difference, lower, upper) if higher_is_better(metric) else (difference, upper, lower)


def shown_difference(metric: str, difference: float) -> float:
    """The model's score minus that of its baseline, of a difference that is above 0 if better.

    >>> shown_difference("mse", -3.0), shown_difference("accuracy", -0.01)
    (3.0, -0.01)
    """
    # Minus 0.0 would be shown as -0.00.
    return difference if higher_is_better(metric) else 0.0 - difference
