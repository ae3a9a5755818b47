"""The sizes of each layer that cost the least loss within a latency (ZipLM, Kurtic et al. 2023).

Latencies of layers add up, and so do the estimates of the loss: a knapsack whose items are the
heads and the neurons of each layer, solved by dynamic programming over steps of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError
from sparsekit.shape.latency import Costs
from sparsekit.shape.ranking import Ranking

# The budget is divided into so many steps.
STEPS = 4000


@dataclass(frozen=True)
class Solution:
    """The heads and neurons of each layer, the seconds predicted, and the estimate of the loss."""

    heads: list[int]
    neurons: list[int]
    seconds: float
    loss: float


@dataclass(frozen=True)
class _Option:
    """A size of a layer's part. has_heads: whether it is a number of heads above 0."""

    size: int
    seconds: float
    loss: float
    has_heads: bool


def solve(
    heads: Sequence[Ranking], neurons: Sequence[Ranking], costs: Costs, max_seconds: float
) -> Solution:
    """The solution with the least loss; at least one layer keeps a head.

    Sizes are those that were measured. Raises UserError, naming what is reachable, where even the
    smallest sizes take longer.
    """
    parts = _parts(heads, neurons, costs)
    fastest = costs.base + sum(map(_seconds, _smallest(parts)))
    if fastest > max_seconds:
        raise UserError(
            f"a latency of {max_seconds * 1e3:.3g} ms is out of reach: the smallest shape takes "
            f"{fastest * 1e3:.3g} ms. "
            "It has a single head in one layer, no neurons, and the embeddings and the head of the "
            "model; ask for more time, or narrow the model first (sparsekit shrink --hidden, "
            "--layers)"
        )
    for chosen in _knapsack(parts, max_seconds - costs.base):
        found = _solution(chosen, costs)
        if found.seconds <= max_seconds:
            return found
    # The smallest sizes fit, and not by as much as rounding adds.
    return _solution(_smallest(parts), costs)


def _solution(chosen: Sequence[_Option], costs: Costs) -> Solution:
    sizes = [option.size for option in chosen]
    heads, neurons = sizes[::2], sizes[1::2]
    loss = sum(option.loss for option in chosen)
    return Solution(heads, neurons, costs.predict(heads, neurons), loss)


def _parts(
    heads: Sequence[Ranking], neurons: Sequence[Ranking], costs: Costs
) -> list[list[_Option]]:
    """The options of each layer's heads and of its neurons, in turn."""
    parts = []
    for index, pair in enumerate(zip(heads, neurons, strict=True)):
        measured = costs.of_layer(index == len(heads) - 1)
        for ranking, seconds, is_heads in zip(pair, measured, (True, False), strict=True):
            units = len(ranking.order)
            losses = ranking.losses.tolist()
            parts.append(
                [
                    _Option(size, cost, losses[units - size], is_heads and size > 0)
                    for size, cost in sorted(seconds.items())
                    if size <= units
                ]
            )
    return parts


def _smallest(parts: Sequence[Sequence[_Option]]) -> list[_Option]:
    """The option of each part that takes least, with heads where they take the least more."""
    chosen = [min(part, key=_seconds) for part in parts]
    if any(option.has_heads for option in chosen):
        return chosen
    heads = {
        index: min(found, key=_seconds)
        for index, part in enumerate(parts)
        if (found := [option for option in part if option.has_heads])
    }
    if heads:
        index = min(heads, key=lambda index: heads[index].seconds - chosen[index].seconds)
        chosen[index] = heads[index]
    return chosen


def _seconds(option: _Option) -> float:
    return option.seconds


def _knapsack(parts: Sequence[Sequence[_Option]], budget: float) -> Iterator[list[_Option]]:
    """One option of each part, which together take about `budget` seconds, and ever less.

    Seconds are rounded to steps, so that the first of them may take a little more than the budget.
    """
    step = max(budget, 1e-12) / STEPS
    # The least loss of the parts so far within each number of steps, without and with any head.
    least = np.full((2, STEPS + 1), np.inf)
    least[0] = 0.0
    choices: list[npt.NDArray[np.int16]] = []
    for part in parts:
        found = np.full_like(least, np.inf)
        choice = np.full((2, 2, STEPS + 1), -1, np.int16)
        for index, option in enumerate(part):
            taken = _steps(option, step)
            if taken > STEPS:
                continue
            for before in (0, 1):
                after = 1 if option.has_heads or before else 0
                candidate = least[before, : STEPS + 1 - taken] + option.loss
                better = candidate < found[after, taken:]
                found[after, taken:][better] = candidate[better]
                choice[after, 0, taken:][better] = index
                choice[after, 1, taken:][better] = before
        choices.append(choice)
        least = found
    for steps in range(STEPS, -1, -1):
        if not np.isfinite(least[1, steps]):
            return
        yield _traced(parts, choices, steps, step)


def _traced(
    parts: Sequence[Sequence[_Option]],
    choices: Sequence[npt.NDArray[np.int16]],
    steps: int,
    step: float,
) -> list[_Option]:
    """The options that have the least loss within a number of steps of `step` seconds.

    choices: of each part, by whether there is any head, the option chosen last and whether there is
    a head without it, [2, 2, steps].
    """
    chosen: list[_Option] = []
    flag, position = 1, steps
    for part, choice in zip(reversed(parts), reversed(choices), strict=True):
        option = part[choice[flag, 0, position]]
        flag, position = int(choice[flag, 1, position]), position - _steps(option, step)
        chosen.append(option)
    return chosen[::-1]


def _steps(option: _Option, step: float) -> int:
    # Rounded to the nearest, so that errors of many parts do not add up to one side.
    return round(option.seconds / step)
