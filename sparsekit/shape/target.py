"""A latency that a model is to have, and the structures that stay for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from sparsekit.errors import UserError
from sparsekit.shape.kept import Kept, largest_sizes
from sparsekit.shape.latency import LatencyTable, duration
from sparsekit.shape.ranking import Rankings
from sparsekit.shape.search import Solution, solve


@dataclass(frozen=True, kw_only=True)
class Target:
    """The longest latency by a table.

    max_latency: as it is written, such as 3ms. sparsity: the zeros that the layers' weights will
    have, of which the table must have latencies. any_machine: whether it may be of another machine.
    """

    max_latency: float | str
    table: Path
    sparsity: float = 0.0
    any_machine: bool = False

    def problems(self) -> list[str]:
        """What is wrong with the target or its table."""
        try:
            duration(self.max_latency)
            self.read()
        except UserError as error:
            return [str(error)]
        return []

    def read(self) -> LatencyTable:
        """The table, with the sparsity; raises UserError where it cannot be used."""
        table = LatencyTable.load(self.table, self.any_machine)
        table.at(self.sparsity)
        return table

    def solve(self, model: PreTrainedModel, rankings: Rankings) -> Solution:
        """The heads and neurons of each layer; raises UserError where the target is too short."""
        table = self.read()
        table.check_model(largest_sizes(model))
        seconds = duration(self.max_latency)
        return solve(rankings.heads, rankings.neurons, table.at(self.sparsity), seconds)


def within_latency(model: PreTrainedModel, rankings: Rankings, target: Target) -> Kept:
    """The heads and neurons that cost the least loss within the target."""
    solution, kept = target.solve(model, rankings), Kept.all(model)
    pairs = zip(rankings.heads, solution.heads, strict=True)
    widths = zip(rankings.neurons, solution.neurons, strict=True)
    return Kept(
        layers=kept.layers,
        heads=tuple(ranking.kept(count) for ranking, count in pairs),
        neurons=tuple(ranking.kept(count) for ranking, count in widths),
        hidden=kept.hidden,
    )
