"""A plot of the confusion matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

# Counts are printed in the cells for up to this many classes.
ANNOTATED = 20
LONGEST_NAME = 24


def draw(report: dict[str, Any], title: str, target: Path) -> None:
    """Write the PNG `target`: each cell coloured by its share of the true class's rows.

    `report` is that of `report.class_report`. Raises ImportError where matplotlib is missing.
    """
    from matplotlib.figure import Figure

    counts = np.array(report["confusion"])
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    names = [_short(name) for name in report["classes"]]
    inches = min(3.5 + 0.45 * len(names), 20)
    figure = Figure(figsize=(inches + 1, inches), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class's rows", shrink=0.8)
    if len(names) <= ANNOTATED:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    # A dollar sign in a name would begin a formula.
    axes.set_yticks(ticks, names)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title)
    figure.savefig(target, format="png", dpi=120)


def _short(name: str) -> str:
    """
    >>> _short("delivery"), _short("a class with a name of some length")
    ('delivery', 'a class with a name of …')
    """
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
