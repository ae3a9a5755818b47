"""The speed-ups as a bar chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw(rows: Sequence[Mapping[str, Any]], title: str, target: Path) -> None:
    """Write the PNG `target`: a group of bars for each size, with a bar for each candidate.

    A candidate with the name of a runtime is the model itself. Raises ImportError where matplotlib
    is missing.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["name"] for row in rows))
    cells = list(dict.fromkeys((row["batch"], row["sequence"]) for row in rows))
    inches = 1.8 + 0.25 * (len(names) + 1) * len(cells)
    figure = Figure(figsize=(8, inches), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        own = [row for row in rows if row["name"] == name]
        positions = [cells.index((row["batch"], row["sequence"])) + index * height for row in own]
        bars = axes.barh(
            positions, [row["speedup"] for row in own], height=height, label=_label(name)
        )
        labels = [f"{_short(row['speedup'])}x, {_short(row['latency_ms_p50'])} ms" for row in own]
        axes.bar_label(bars, labels, padding=2, fontsize=8)
    middle = height * (len(names) - 1) / 2
    cell_names = [f"batch {batch}\nsequence {length}" for batch, length in cells]
    axes.set_yticks([index + middle for index in range(len(cells))], cell_names)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("speed-up over the dense fp32 model on onnxruntime (median latency)")
    axes.axvline(1, color="0.7", linewidth=0.8, linestyle="--", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title)
    # Below the bars, since long bars leave no free corner.
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(target, format="png", dpi=120)


def _label(candidate: str) -> str:
    return candidate if "," in candidate else f"this model, {candidate}"


def _short(value: float) -> str:
    """
    >>> _short(0.0123), _short(1.0), _short(17.06), _short(240.4)
    ('0.012', '1.0', '17', '240')
    """
    return f"{value:#.2g}".rstrip(".") if value < 100 else f"{value:.0f}"
