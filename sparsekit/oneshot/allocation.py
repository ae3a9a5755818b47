"""A sparsity for each layer, so that together they have the one that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sparsekit.errors import UserError
from sparsekit.oneshot.sensitivity import LayerSensitivity


@dataclass(frozen=True)
class _Segment:
    """More zeros in one layer, between two measured shares, and what they cost for each weight."""

    name: str
    start: float
    end: float
    weights: int
    cost: float

    @property
    def zeros(self) -> float:
        return (self.end - self.start) * self.weights


def allocate(layers: Sequence[LayerSensitivity], sparsity: float) -> dict[str, float]:
    """The share of zeros of each layer that makes the sum of their losses smallest.

    Between the measured shares the loss of a layer is taken as the lower convex hull of its
    measurements, so that the cheapest zeros can be taken one after the other. That the layers'
    losses add up is an approximation: measure the result.

    Args:
        layers: what was measured; a layer gets at most its largest measured share.
        sparsity: the share of zeros over all layers.

    Raises:
        UserError: more zeros than the largest measured shares have.

    >>> easy = LayerSensitivity(name="easy", weights=100, pruned={0.5: 0.0, 0.9: 0.1}, int8=0.0)
    >>> hard = LayerSensitivity(name="hard", weights=100, pruned={0.5: 0.2, 0.9: 0.9}, int8=0.0)
    >>> allocate([easy, hard], 0.5)
    {'easy': 0.9, 'hard': 0.1}
    """
    total = sum(layer.weights for layer in layers)
    possible = sum(max(layer.pruned) * layer.weights for layer in layers) / total
    # A mean of equal shares may differ from them in the last bit.
    if not 0 < sparsity <= possible * (1 + 1e-9):
        raise UserError(
            f"--sparsity {sparsity:g} must lie above 0 and be at most {possible:g}, the largest "
            "measured share; measure more with --share"
        )
    wanted = sparsity * total
    shares = {layer.name: 0.0 for layer in layers}
    segments = [segment for layer in layers for segment in _segments(layer)]
    # A hull's costs ascend, and equal ones stay in order: of each layer the first segment is first.
    for segment in sorted(segments, key=lambda segment: segment.cost):
        taken = min(1.0, wanted / segment.zeros)
        shares[segment.name] = segment.start + taken * (segment.end - segment.start)
        wanted -= taken * segment.zeros
        if taken < 1.0:
            break
    return {name: round(share, 4) for name, share in shares.items()}


def predicted(layer: LayerSensitivity, share: float) -> float:
    """The growth of the loss that `allocate` expects of a layer at a share of zeros."""
    grown = 0.0
    for segment in _segments(layer):
        grown += segment.cost * layer.weights * max(0.0, min(share, segment.end) - segment.start)
    return grown


def _segments(layer: LayerSensitivity) -> list[_Segment]:
    """The lower convex hull of the loss over the share of zeros, as segments, ascending."""
    # Noise aside, more zeros do not make a model better.
    points, floor = [(0.0, 0.0)], 0.0
    for share, growth in sorted(layer.pruned.items()):
        floor = max(floor, growth)
        points.append((share, floor))
    hull: list[tuple[float, float]] = []
    for point in points:
        while len(hull) > 1 and _slope(hull[-2], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return [
        _Segment(layer.name, left[0], right[0], layer.weights, _slope(left, right) / layer.weights)
        for left, right in pairwise(hull)
    ]


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])
