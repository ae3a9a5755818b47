"""Chooses the structures that stay, by rankings and the shares that are to be removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsekit.errors import ConfigError
from sparsekit.shape.blocks import blocks
from sparsekit.shape.kept import MULTIPLE, Kept, hidden_width
from sparsekit.shape.ranking import Ranking, Rankings


@dataclass(frozen=True)
class Shares:
    """The shares of structures that are removed, each at least 0 and less than 1."""

    heads: float = 0.0
    neurons: float = 0.0
    hidden: float = 0.0
    layers: float = 0.0

    def problems(self, prefix: str = "", names: Sequence[str] = ()) -> list[str]:
        """Shares out of range, and shares that are all 0.

        prefix: is written before each name. names: of the shares that can be set; all by default.
        """
        values = {name: getattr(self, name) for name in names or vars(self)}
        found = [
            f"{prefix}{name} {value:g} must be at least 0 and less than 1: the share that is "
            "removed, such as 0.5"
            for name, value in values.items()
            if not 0 <= value < 1
        ]
        if not found and not any(values.values()):
            settable = ", ".join(f"{prefix}{name}" for name in values)
            found.append(f"nothing is to be removed; set a share for some of {settable}")
        return found


def choose(
    model: PreTrainedModel, rankings: Rankings, shares: Shares, ranks_globally: bool
) -> Kept:
    """The structures that stay.

    Each layer loses the same shares of its heads and neurons, at least one head and MULTIPLE
    neurons stay; or, with `ranks_globally`, those of all layers together that cost least, which may
    leave a layer without heads or neurons. Raises ConfigError for a share so small that nothing
    would be removed.
    """
    layers, hidden = blocks(model), hidden_width(model)
    heads, neurons = heads_and_neurons(rankings, shares, ranks_globally)
    left = len(layers) - round(shares.layers * len(layers))
    features = rounded(hidden * (1 - shares.hidden), hidden)
    kept = Kept(
        layers=rankings.layers.kept(max(left, 1)),
        heads=tuple(heads),
        neurons=tuple(neurons),
        hidden=rankings.hidden.kept(features),
    )
    of_heads, of_neurons = _sizes(rankings.heads, heads), _sizes(rankings.neurons, neurons)
    problems = [
        f"{name} {share:g} removes none: there are {there}; set a larger share"
        for name, share, there, stay in (
            ("layers", shares.layers, len(layers), len(kept.layers)),
            ("hidden", shares.hidden, hidden, len(kept.hidden)),
            ("heads", shares.heads, *of_heads),
            ("neurons", shares.neurons, *of_neurons),
        )
        if share and stay == there
    ]
    if problems:
        raise ConfigError(problems)
    return kept


def heads_and_neurons(
    rankings: Rankings, shares: Shares, ranks_globally: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """The heads and the neurons of each layer that stay, as `choose` has them."""
    return (
        _kept(rankings.heads, shares.heads, 1, ranks_globally),
        _kept(rankings.neurons, shares.neurons, MULTIPLE, ranks_globally),
    )


def rounded(width: float, limit: int) -> int:
    """The multiple of MULTIPLE nearest to a width, at least one of them; `limit` at most.

    >>> rounded(101.0, 128), rounded(1.0, 128), rounded(126.0, 126)
    (104, 8, 126)
    """
    return min(max(MULTIPLE, round(width / MULTIPLE) * MULTIPLE), limit)


def _kept(
    rankings: Sequence[Ranking], share: float, multiple: int, ranks_globally: bool
) -> list[Tensor]:
    if not share:
        return [ranking.kept(len(ranking.order)) for ranking in rankings]
    counts = (
        _global_counts(rankings, share, multiple)
        if ranks_globally
        else [_count(len(ranking.order), share, multiple) for ranking in rankings]
    )
    return [ranking.kept(count) for ranking, count in zip(rankings, counts, strict=True)]


def _count(units: int, share: float, multiple: int) -> int:
    left = round(units * (1 - share) / multiple) * multiple
    return min(max(left, multiple), units)


def _global_counts(rankings: Sequence[Ranking], share: float, multiple: int) -> list[int]:
    """How many units of each layer stay if the cheapest of all layers go, in whole multiples."""
    costs = torch.cat([ranking.losses.diff() for ranking in rankings])
    # A unit costs no less than those that go before it, so that each layer loses its first ones.
    costs = torch.cat([part.cummax(0).values for part in _parts(costs, rankings) if len(part)])
    left = round(len(costs) * (1 - share))
    stay = torch.zeros(len(costs), dtype=torch.bool)
    stay[torch.argsort(costs, stable=True)[len(costs) - max(left, 1) :]] = True
    counts = []
    for part, ranking in zip(_parts(stay, rankings), rankings, strict=True):
        units = len(ranking.order)
        counts.append(min(-(-int(part.sum()) // multiple) * multiple, units))
    return counts


def _parts(values: Tensor, rankings: Sequence[Ranking]) -> tuple[Tensor, ...]:
    ends = torch.tensor([len(ranking.order) for ranking in rankings]).cumsum(0)
    return values.tensor_split(ends[:-1])


def _sizes(rankings: Sequence[Ranking], kept: Sequence[Tensor]) -> tuple[int, int]:
    """How many units there are in all layers together, and how many stay."""
    return sum(len(ranking.order) for ranking in rankings), sum(map(len, kept))
