"""How long each size of a layer takes on one machine: what a latency target is solved by."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsekit.errors import UserError, parse_json
from sparsekit.system import cores, cpu_name, versions

_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|us|s|)\s*")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "": 1e-3}


def duration(text: float | str) -> float:
    """Seconds of a duration as it is written, in milliseconds without a unit.

    Raises UserError.

    >>> duration("3ms"), duration(2), duration("0.5 s")
    (0.003, 0.002, 0.5)
    """
    match = _DURATION.fullmatch(str(text))
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{text!r} is not a duration above 0, such as 3ms, 250us or 0.1s")
    return seconds


@dataclass(frozen=True)
class Costs:
    """Seconds of the parts of a model at one sparsity.

    base: of a model whose layers have neither heads nor neurons; heads, neurons: what one layer
    with that many adds; last_heads, last_neurons: what the last layer adds, of which a classifier
    of texts reads one token.
    """

    base: float
    heads: dict[int, float]
    neurons: dict[int, float]
    last_heads: dict[int, float]
    last_neurons: dict[int, float]

    def predict(self, heads: Sequence[int], neurons: Sequence[int]) -> float:
        """Seconds of a model with these sizes; those between two measured ones are interpolated."""
        last = len(heads) - 1
        total = self.base
        for index, (count, width) in enumerate(zip(heads, neurons, strict=True)):
            of_heads, of_neurons = self.of_layer(index == last)
            total += _interpolated(of_heads, count) + _interpolated(of_neurons, width)
        return total

    def of_layer(self, last: bool) -> tuple[dict[int, float], dict[int, float]]:
        """What heads and neurons add to a layer, the last one or another."""
        return (self.last_heads, self.last_neurons) if last else (self.heads, self.neurons)


def _interpolated(costs: Mapping[int, float], size: int) -> float:
    sizes = sorted(costs)
    return float(np.interp(size, sizes, [costs[each] for each in sizes]))


@dataclass(frozen=True)
class LatencyTable:
    """What was measured, on which machine, with which settings.

    machine: see `machine`; model: layers, heads, neurons and hidden width of the largest size;
    costs: by sparsity, the share of zeros in the weights of the layers, as text such as "0.8";
    every_token: whether the last layer computes all tokens, not the first alone.
    """

    machine: dict[str, Any]
    model: dict[str, int]
    runtime: str
    threads: int
    batch: int
    sequence: int
    int8: bool
    costs: dict[str, Costs]
    # Tables of versions before had none: the last layer computed the first token alone.
    every_token: bool = False

    def save(self, file: Path) -> None:
        """Write the table as JSON."""
        file.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path, any_machine: bool = False) -> LatencyTable:
        """Read a table; raises UserError for one of another machine, unless `any_machine`."""
        try:
            values = parse_json(file.read_bytes())
            values["costs"] = {
                sparsity: Costs(
                    base=float(each.pop("base")),
                    **{name: _sizes(sizes) for name, sizes in each.items()},
                )
                for sparsity, each in values["costs"].items()
            }
            table = cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file} is not a latency table: {error!r}; write one with sparsekit latency-table"
            ) from error
        here = machine()
        if table.machine != here and not any_machine:
            differing = [name for name in here if table.machine.get(name) != here[name]]
            there = ", ".join(f"{name} {table.machine.get(name)}" for name in differing)
            own = ", ".join(f"{name} {here[name]}" for name in differing)
            raise UserError(
                f"{file} was measured on another machine ({there}; here {own}): measure one here, "
                "or use it all the same: --any-machine, in a recipe recipe.any_machine=true"
            )
        return table

    def at(self, sparsity: float) -> Costs:
        """The costs at a sparsity; raises UserError where it was not measured."""
        for text, costs in self.costs.items():
            if abs(float(text) - sparsity) < 1e-9:
                return costs
        raise UserError(
            f"the latency table has no sparsity {sparsity:g}, it has {', '.join(self.costs)}: "
            f"measure it: sparsekit latency-table ... --sparsity {sparsity:g}"
        )

    def check_model(self, sizes: Mapping[str, int]) -> None:
        """Raise UserError for a model with other sizes than the one that was measured."""
        if dict(sizes) != self.model:
            raise UserError(
                f"the latency table is of a model with {_listed(self.model)}, this one has "
                f"{_listed(sizes)}: measure a table of this one"
            )

    def check_tokens(self, every_token: bool) -> None:
        """Raise UserError where the model's last layer computes other tokens than were timed."""
        if every_token != self.every_token:
            reads, how = (
                ("every token", "measure one with --every-token")
                if every_token
                else ("one token of the last layer", "measure one without --every-token")
            )
            raise UserError(
                f"the task reads {reads}, and the latency table is of models that do not: {how}"
            )


def machine() -> dict[str, Any]:
    """What a table is compared by with the machine that reads it."""
    return {"cpu": cpu_name(), "cores": cores(), "onnxruntime": versions()["onnxruntime"]}


def _sizes(values: Mapping[str, float]) -> dict[int, float]:
    return {int(size): float(seconds) for size, seconds in values.items()}


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in sizes.items())
