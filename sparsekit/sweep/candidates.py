"""What the trials of `sparsekit compress` remove, the most first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Candidate(Protocol):
    """What one trial removes of the dense model."""

    @property
    def name(self) -> str:
        """The name of its run folder."""

    @property
    def label(self) -> str:
        """What is removed, as a user reads it."""

    def words(self, labelled: bool) -> list[str]:
        """The overrides of `sparsekit train recipe=from_dense`.

        labelled: whether the task has a loss of labels, which Optimal Brain Surgeon needs; without
        one, what is removed has the smallest magnitude.
        """


@dataclass(frozen=True)
class Zeros:
    """Single weights: a share of them is set to zero while the model trains; 0: int8 alone.

    By Optimal Brain Surgeon where it can, which loses less than magnitude (docs/accuracy.md), over
    all layers together.
    """

    sparsity: float

    @property
    def name(self) -> str:
        return f"sparsity-{self.sparsity:g}"

    @property
    def label(self) -> str:
        return f"{self.sparsity:.0%} of the weights" if self.sparsity else "nothing"

    def words(self, labelled: bool) -> list[str]:
        by_magnitude = ["recipe.obs_gradients=0"] if self.sparsity and not labelled else []
        return [f"recipe.final_sparsity={self.sparsity:g}", *by_magnitude]


@dataclass(frozen=True)
class Structures:
    """Shares of the heads and neurons of each layer, before it trains."""

    heads: float
    neurons: float

    @property
    def name(self) -> str:
        return f"heads-{self.heads:g}-neurons-{self.neurons:g}"

    @property
    def label(self) -> str:
        return f"{self.heads:.0%} of the heads, {self.neurons:.0%} of the neurons"

    def words(self, labelled: bool) -> list[str]:
        shares = {"heads": self.heads, "neurons": self.neurons}
        removed = [f"student.shrink.{name}={share:g}" for name, share in shares.items()]
        method = "obs" if labelled else "magnitude"
        return [*removed, f"student.shrink.method={method}", "recipe.final_sparsity=0"]


_INT8_ALONE = Zeros(0.0)
# By what is removed, from the smallest and fastest model on.
CANDIDATES: dict[str, Sequence[Candidate]] = {
    "weights": (*map(Zeros, (0.9, 0.8, 0.7, 0.5)), _INT8_ALONE),
    "structures": (
        Structures(0.66, 0.84),
        Structures(0.5, 0.75),
        Structures(0.33, 0.5),
        Structures(0.17, 0.25),
        _INT8_ALONE,
    ),
}
