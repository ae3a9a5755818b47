"""A picture of what is left of each layer: heads, neurons, and zeros in what remains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEFT, REMOVED, ZEROS = "#2563a8", "#dbe3ec", "#d97706"
# Counts are written on the bars of up to this many layers.
ANNOTATED = 24


def draw(shape: dict[str, Any], target: Path) -> None:
    """Write the PNG `target`; `shape` is `summary.shape`.

    Layers that were removed whole are not shown. Raises ImportError where matplotlib is missing.
    """
    from matplotlib.figure import Figure

    layers = len(shape["heads"])
    figure = Figure(figsize=(max(5.0, 1.8 + 0.42 * layers), 6.4), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    for panel, name in zip(axes, ("heads", "neurons"), strict=False):
        _left(panel, shape[name], shape["before"][name], name)
    zeros = [100 * share for share in shape["zeros"]]
    axes[2].bar(range(layers), zeros, color=ZEROS)
    axes[2].set_ylim(0, 100)
    axes[2].set_ylabel("zeros in what\nis left, %")
    _annotate(axes[2], zeros, [f"{share:.0f}" for share in zeros], 100)
    axes[2].set_xlabel("layer")
    axes[2].set_xticks(range(layers), [str(layer + 1) for layer in range(layers)])
    figure.suptitle(_title(shape), fontsize=10)
    figure.savefig(target, format="png", dpi=120)


def _left(axes: Axes, left: Sequence[int], before: Sequence[int], name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    layers = range(len(left))
    axes.bar(layers, before[: len(left)], color=REMOVED)
    axes.bar(layers, left, color=LEFT)
    axes.set_ylim(0, 1.15 * max(before))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"{name} left\nof {max(before):,}")
    _annotate(axes, left, [f"{count:,}" for count in left], max(before))


def _annotate(axes: Axes, heights: Sequence[float], texts: Sequence[str], most: float) -> None:
    if len(texts) > ANNOTATED:
        return
    for layer, (height, text) in enumerate(zip(heights, texts, strict=True)):
        # Inside a bar that is high enough for a line of text, else above it.
        inside = height > 0.25 * most
        axes.text(
            layer,
            height - 0.03 * most if inside else height + 0.02 * most,
            text,
            ha="center",
            va="top" if inside else "bottom",
            color="white" if inside else "black",
            fontsize=7,
        )


def _title(shape: dict[str, Any]) -> str:
    after, before = shape["parameters"], shape["before"]["parameters"]
    title = f"{after / 1e6:.3g} M of {before / 1e6:.3g} M parameters left"
    if latency := shape.get("latency"):
        title += f"\n{latency['predicted_ms']:.3g} ms predicted on {latency['runtime']}, "
        title += f"{latency['max_ms']:.3g} ms asked for"
    return title
