"""One-shot shrinking: what is to be removed of a model, and its removal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sparsekit.errors import parse_json
from sparsekit.shape.choice import Shares, choose
from sparsekit.shape.config import describe
from sparsekit.shape.ranking import METHODS, Rankings, compensate
from sparsekit.shape.removal import remove
from sparsekit.shape.statistics import Statistics
from sparsekit.shape.target import Target, within_latency

# In a shrunken checkpoint: the settings, and the sizes before and after.
RECORD = "shrinking.json"


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """The settings of one-shot shrinking.

    heads, neurons, hidden, layers: the shares that are removed.
    target: a latency instead, which heads and neurons are removed for.
    method: one of `sparsekit.shape.ranking.METHODS`.
    global_ranking: whether the heads and neurons of all layers are ranked together.
    rows: number of rows on which `first_order` and `obs` measure; seed: of their choice.
    """

    heads: float = 0.0
    neurons: float = 0.0
    hidden: float = 0.0
    layers: float = 0.0
    target: Target | None = None
    method: str = "magnitude"
    global_ranking: bool = False
    rows: int = 512
    seed: int = 0

    @property
    def shares(self) -> Shares:
        return Shares(
            heads=self.heads, neurons=self.neurons, hidden=self.hidden, layers=self.layers
        )

    @property
    def measures(self) -> bool:
        """Whether it needs the loss of labelled rows."""
        return self.method != "magnitude"

    def problems(self, prefix: str) -> list[str]:
        """Problems of the settings, with their limits and fixes; `prefix` is before each name."""
        found = [] if self.target and self.shares == Shares() else self.shares.problems(prefix)
        if self.target is not None and self.shares != Shares():
            found.append(
                f"{prefix}max-latency finds the heads and neurons by itself: leave out the shares; "
                "for fewer layers or a narrower model, shrink twice, with a table of the first "
                "result"
            )
        if self.target is not None:
            found += [f"{prefix}max-latency: {problem}" for problem in self.target.problems()]
        if self.method not in METHODS:
            found.append(f"{prefix}method {self.method} is not one of {', '.join(METHODS)}")
        if self.rows < 1:
            found.append(f"{prefix}rows {self.rows} must be 1 or more")
        return found


def shrink(
    model: PreTrainedModel, config: Shrink, rankings: Rankings, statistics: Statistics | None
) -> None:
    """Remove structures from `model` in place, and write its sizes into its config.

    rankings: of the config's method; statistics: what they were computed of, None for magnitude.
    """
    if config.target is None:
        kept = choose(model, rankings, config.shares, config.global_ranking)
    else:
        kept = within_latency(model, rankings, config.target)
    if config.method == "obs":
        assert statistics is not None
        compensate(model, statistics, kept.heads, kept.neurons)
    remove(model, kept)
    describe(model)


def sizes_before(model: PreTrainedModel) -> dict[str, Any] | None:
    """The sizes of a model before it was shrunk, by its checkpoint; None where it was not."""
    file = Path(model.name_or_path or "") / RECORD
    try:
        before: dict[str, Any] = parse_json(file.read_bytes())["before"]
    except (OSError, ValueError, KeyError):
        return None
    return before
