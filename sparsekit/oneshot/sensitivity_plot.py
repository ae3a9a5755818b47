"""The sensitivity of each layer as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from sparsekit.oneshot.sensitivity import LayerSensitivity

INCHES_PER_LAYER, INCHES_PER_COLUMN, INCHES_OF_NAMES = 0.2, 0.75, 3.6


def plot(
    layers: Sequence[LayerSensitivity], allocation: Mapping[str, float] | None, target: Path
) -> None:
    """Write the PNG `target`."""
    draw(layers, allocation).savefig(target, format="png", dpi=110)


def draw(layers: Sequence[LayerSensitivity], allocation: Mapping[str, float] | None) -> Figure:
    """A row for each layer: the growth of the loss by share and in int8, and the share it gets."""
    columns = [f"{share:.0%}" for share in layers[0].pruned] + ["int8"]
    rows = [[*layer.pruned.values(), layer.int8] for layer in layers]
    widths = [len(columns), *([2.5] if allocation else [])]
    size = (
        INCHES_OF_NAMES + INCHES_PER_COLUMN * sum(widths),
        INCHES_PER_LAYER * len(layers) + 1.4,
    )
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _heat(figure, panels[0], [layer.name for layer in layers], columns, rows)
    if allocation:
        _shares(panels[1], [allocation[layer.name] for layer in layers])
    return figure


def _heat(
    figure: Figure, axes: Axes, names: list[str], columns: list[str], rows: list[list[float]]
) -> None:
    largest = max(max(row) for row in rows)
    norm = PowerNorm(0.4, vmin=0.0, vmax=max(largest, 1e-6), clip=True)
    image = axes.imshow(rows, aspect="auto", cmap="YlOrRd", norm=norm)
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            colour = "white" if norm(value) > 0.7 else "black"
            axes.text(x, y, f"{value:.3f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_title("growth of the loss, one layer at a time", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)


def _shares(axes: Axes, shares: Sequence[float]) -> None:
    axes.barh(range(len(shares)), [100 * share for share in shares], height=0.8, color="C0")
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_yticks([])
    axes.tick_params(labelsize=8)
    axes.set_title("chosen zeros, %", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
