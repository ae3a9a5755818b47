"""The Pareto front: which of several points no other one beats."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np


def pareto(points: Sequence[Sequence[float]], noise: Sequence[float] = ()) -> list[bool]:
    """For each point, whether it is on the front: no other point beats it.

    points: the metric, then the costs; less is better in each.
    noise: the share by which a cost may differ by chance; by default it is exact.

    A point is beaten by one that is as small in all coordinates and smaller in one, and by one with
    a better metric whose costs are higher by chance at most: otherwise a slow model of low accuracy
    would be on the front for having been timed in a quiet moment.

    >>> pareto([(1, 3), (2, 2), (2, 3), (3, 1)])
    [True, True, False, True]
    >>> pareto([(0.1, 1.01), (0.4, 1.0)]), pareto([(0.1, 1.01), (0.4, 1.0)], [0.05])
    ([True, True], [True, False])
    """
    if not points:
        return []
    order = sorted(range(len(points)), key=lambda index: points[index][0])
    metric = [points[index][0] for index in order]
    # [costs, points], by the metric, which no later point betters.
    costs = np.array([points[index][1:] for index in order]).T
    # By how much each cost may rise by chance.
    slack = 1 + np.array(noise or [0.0] * len(costs))
    front = []
    for point in points:
        cost = np.array(point[1:])[:, None]
        first, end = bisect_left(metric, point[0]), bisect_right(metric, point[0])
        better, equal = costs[:, :first], costs[:, first:end]
        beaten = (better <= cost * slack[:, None]).all(axis=0).any()
        beaten |= ((equal <= cost).all(axis=0) & (equal != cost).any(axis=0)).any()
        front.append(not beaten)
    return front
