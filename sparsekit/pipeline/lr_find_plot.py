"""The losses of a learning rate range test as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from sparsekit.training.range_test import RangeTest


def plot(found: RangeTest, target: Path) -> None:
    """Write the PNG `target`: the loss over the learning rate, and the suggestion."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses)
    axes.axvline(found.suggested, color="C1", linestyle="--", label=f"{found.suggested:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss, smoothed")
    axes.legend(title="suggested", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.savefig(target, format="png", dpi=120)
