"""A latency that a model is to have, and the structures that stay for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sparsekit.errors import ConfigError, UserError
from sparsekit.shape.blocks import blocks
from sparsekit.shape.kept import Kept, largest_sizes
from sparsekit.shape.latency import LatencyTable, duration
from sparsekit.shape.ranking import Rankings
from sparsekit.shape.search import Solution, solve


@dataclass(frozen=True, kw_only=True)
class Target:
    """The longest latency by a table.

    max_latency: as it is written, such as 3ms. table: None as long as it is to be measured.
    sparsity: the zeros that the layers' weights will have, of which the table must have latencies.
    any_machine: whether it may be of another machine.
    """

    max_latency: float | str
    table: Path | None
    sparsity: float = 0.0
    any_machine: bool = False

    def problems(self) -> list[str]:
        """What is wrong with the target or its table."""
        try:
            duration(self.max_latency)
            if self.table is not None:
                self.read()
        except UserError as error:
            return [str(error)]
        return []

    def read(self) -> LatencyTable:
        """The table, with the sparsity; raises UserError where it cannot be used."""
        if self.table is None:
            raise ConfigError(
                [
                    "max_latency needs latency_table, a file that sparsekit latency-table writes: "
                    "set recipe.latency_table; with a runtime sparsekit train measures one itself"
                ]
            )
        table = LatencyTable.load(self.table, self.any_machine)
        table.at(self.sparsity)
        return table

    def solve(self, model: PreTrainedModel, rankings: Rankings) -> Solution:
        """The heads and neurons of each layer; raises UserError where the target is too short."""
        table = self.read()
        table.check_model(largest_sizes(model))
        seconds = duration(self.max_latency)
        return solve(rankings.heads, rankings.neurons, table.at(self.sparsity), seconds)


def expected(model: PreTrainedModel, target: Target) -> dict[str, Any]:
    """What the table says of `model` as it is, and where it was measured.

    max_ms, predicted_ms: of one call, in milliseconds; runtime, threads, batch and sequence are
    those of the table.
    """
    table, layers = target.read(), blocks(model)
    costs = table.at(target.sparsity)
    heads, neurons = [block.heads for block in layers], [block.neurons for block in layers]
    return {
        "max_ms": duration(target.max_latency) * 1e3,
        "predicted_ms": costs.predict(heads, neurons) * 1e3,
        "runtime": table.runtime,
        "threads": table.threads,
        "batch": table.batch,
        "sequence": table.sequence,
    }


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
