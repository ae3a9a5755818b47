"""Gradual magnitude pruning, in each layer or over all layers (Zhu and Gupta, 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.modifiers.pruning.gradual import GradualPruning


@dataclass(kw_only=True)
class MagnitudePruning(GradualPruning):
    """Prunes the smallest magnitudes of each layer; SparseML's GMPruning and MagnitudePruning."""


@dataclass(kw_only=True)
class GlobalMagnitudePruning(GradualPruning):
    """Prunes the smallest magnitudes over all layers, whose final sparsities therefore differ."""

    @property
    def ranks_globally(self) -> bool:
        return True
