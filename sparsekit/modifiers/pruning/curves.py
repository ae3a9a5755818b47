"""Functions from progress to the share of the pruning that is done, both from 0 to 1."""

from __future__ import annotations

import math


def linear(progress: float) -> float:
    """Grows evenly from 0 to 1."""
    return progress


def cubic(progress: float) -> float:
    """Grows fast at first, from 0 to 1 (Zhu and Gupta, 2017)."""
    return 1 - (1 - progress) ** 3


def inverse_cubic(progress: float) -> float:
    """Grows slowly at first, from 0 to 1."""
    return 1 - math.cbrt(1 - progress)


INTER_FUNCTIONS = {"linear": linear, "cubic": cubic, "inverse_cubic": inverse_cubic}
