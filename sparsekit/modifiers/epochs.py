"""Periods of epochs, which are sums of floats."""

from __future__ import annotations

import math

# 13.999... of an epoch's 14 steps are 14.
EPSILON = 1e-9


def whole_periods(epochs: float, period: float) -> int:
    """How many periods have passed after so many epochs.

    >>> whole_periods(0.1 + 0.2, 0.3), whole_periods(0.3, 0.1), whole_periods(0.29, 0.1)
    (1, 3, 2)
    """
    return math.floor(epochs / period + EPSILON)
