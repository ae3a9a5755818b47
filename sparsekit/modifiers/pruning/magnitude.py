"""Gradual pruning by magnitude, of each weight by itself or of all together."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.modifiers.pruning.gradual import GradualPruning


@dataclass(kw_only=True)
class MagnitudePruning(GradualPruning):
    """Drops the smallest magnitudes of each weight (SparseML's GMPruning and MagnitudePruning)."""


@dataclass(kw_only=True)
class GlobalMagnitudePruning(GradualPruning):
    """Drops the smallest magnitudes over all of its weights: layers end at their own sparsities."""

    @property
    def ranks_globally(self) -> bool:
        return True
