"""Observers: how a quantizer finds the range of the values that it sees in one step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.modifiers.quantization.rounding import fake_quantize
from sparsekit.modifiers.quantization.scales import quantization_parameters

ACTIVATION_OBSERVERS = ("minmax", "percentile", "mse")
# Most weights of a pruned layer are zero, so a percentile of them says nothing.
WEIGHT_OBSERVERS = ("minmax", "mse")
# More values than this change a percentile or a mean error by less than rounding does.
SAMPLES = 2**18
# Of so many values in a row some are sampled. It has no factor in common with widths of layers,
# which are made of 2, 3 and 5: otherwise the same features of every token would be taken.
PERIOD = 31
# The shares of the full range that `mse` tries.
SHARES = tuple(1 - step / 20 for step in range(15))


@dataclass(frozen=True)
class Observer:
    """The range of values by one method.

    name: minmax, the smallest and the largest value; percentile, which leaves out the lowest and
        the highest values; mse, the share of the full range whose rounding has the least squared
        error.
    percentile: the share of values within the range on each side, in percent.
    """

    name: str = "minmax"
    percentile: float = 99.999

    def range(
        self, rows: Tensor, limits: tuple[int, int], symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        """The lower and the upper end for each row of `rows` [channels, values], in float32."""
        if self.name == "minmax":
            low, high = torch.aminmax(rows, dim=1)
            return low.float(), high.float()
        taken = sampled(rows).float()
        if self.name == "percentile":
            return percentile_range(taken, self.percentile, rows.shape[1])
        return least_error_range(taken, limits, symmetric)


MINMAX = Observer()


def observer_problems(weights: str, activations: str, percentile: float) -> list[str]:
    """What is wrong with the fields of Quantization that choose observers."""
    found = [
        f"{field} {name!r} is not one of {', '.join(known)}"
        for field, name, known in (
            ("weight_observer", weights, WEIGHT_OBSERVERS),
            ("activation_observer", activations, ACTIVATION_OBSERVERS),
        )
        if name not in known
    ]
    if not 50 < percentile <= 100:
        found.append(
            f"observer_percentile {percentile:g} must be above 50 and at most 100, such as 99.999"
        )
    return found


def sampled(rows: Tensor, limit: int = SAMPLES) -> Tensor:
    """At most `limit` values of each row, evenly spaced, and never much fewer; in any order."""
    count = rows.shape[1]
    if count <= limit:
        return rows
    if taken := PERIOD * limit // (count + PERIOD):
        starts = [index * PERIOD // taken for index in range(taken)]
        return torch.cat([rows[:, start::PERIOD] for start in starts], dim=1)
    distance = math.ceil(count / limit)
    while math.gcd(distance, 30) > 1:
        distance += 1
    return rows[:, ::distance]


def percentile_range(
    rows: Tensor, percentile: float, of: int | None = None
) -> tuple[Tensor, Tensor]:
    """The values below and above which `100 - percentile` percent of each row lie.

    of: how many values `rows` [channels, values] are a sample of; None: they are all. Where at
    least one of all is to be left out, one of the sample is too.
    """
    count, share = rows.shape[1], 1 - percentile / 100
    # Not 0.9999999 for the one value in 100,000 that 99.999 leaves out.
    least = int((count if of is None else of) * share + 1e-6 >= 1)
    outside = min(max(round(count * share), least), (count - 1) // 2)
    low = rows.kthvalue(1 + outside, dim=1).values
    return low, rows.kthvalue(count - outside, dim=1).values


def least_error_range(
    rows: Tensor, limits: tuple[int, int], symmetric: bool
) -> tuple[Tensor, Tensor]:
    """The share of each row's full range with the least mean squared error of its rounding."""
    full_low, full_high = torch.aminmax(rows, dim=1)
    best_low, best_high = full_low, full_high
    least = torch.full_like(full_low, torch.inf)
    for share in SHARES:
        low, high = full_low * share, full_high * share
        scale, zero_point = quantization_parameters(low, high, limits, symmetric)
        # `fake_quantize` takes one scale, or one for each index of dimension 0.
        error = (fake_quantize(rows, scale, zero_point, limits) - rows).square().mean(dim=1)
        better = error < least
        least = torch.where(better, error, least)
        best_low = torch.where(better, low, best_low)
        best_high = torch.where(better, high, best_high)
    return best_low, best_high
