"""The speed-ups as a bar chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw(rows: Sequence[Mapping[str, Any]], title: str, target: Path) -> None:
    """Write the PNG `target`: a group of bars for each cell, a bar for each candidate.

    Raises ImportError where matplotlib is missing.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["name"] for row in rows))
    cells = list(dict.fromkeys((row["batch"], row["sequence"]) for row in rows))
    figure = Figure(figsize=(8, 1.2 + 0.25 * len(names) * len(cells)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        own = [row for row in rows if row["name"] == name]
        places = [cells.index((row["batch"], row["sequence"])) + index * height for row in own]
        bars = axes.barh(places, [row["speedup"] for row in own], height=height, label=name)
        labels = [f"{row['speedup']:.1f}x, {row['latency_ms_p50']:.1f} ms" for row in own]
        axes.bar_label(bars, labels, padding=2, fontsize=8)
    middle = height * (len(names) - 1) / 2
    cell_names = [f"batch {batch}\nsequence {length}" for batch, length in cells]
    axes.set_yticks([place + middle for place in range(len(cells))], cell_names)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("speed-up over the dense fp32 model on onnxruntime (median latency)")
    axes.set_title(title)
    axes.legend(fontsize=8)
    figure.savefig(target, format="png", dpi=120)
