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
    difference, lower, upper = (change[key] for key in ("difference", "lower", "upper"))
    if higher_is_better(metric):
        return difference, lower, upper
    return _negated(difference), _negated(upper), _negated(lower)


def _negated(value: float | None) -> float | None:
    # Minus 0.0 would be shown as -0.00.
    return None if value is None else 0.0 - value
