"""A recipe as a picture: learning rate, sparsity and windows on one axis of epochs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsekit.errors import UserError
from sparsekit.recipe import schedule
from sparsekit.recipe.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES_WIDE, INCHES_PER_WINDOW = 8.0, 0.32
OTHER_COLOUR = "C0"
COLOURS = {"pruning": "C1", "quantization": "C2", "distillation": "C3"}


def plot(recipe: Recipe, steps_per_epoch: int, target: Path, title: str) -> None:
    """Write the PNG `target`. Raises UserError where matplotlib is missing."""
    try:
        figure = draw(recipe, steps_per_epoch, title)
    except ImportError as error:
        raise UserError("plots need matplotlib: pip install 'sparsekit[plot]'") from error
    try:
        figure.savefig(target, format="png", dpi=120)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error}") from error


def draw(recipe: Recipe, steps_per_epoch: int, title: str) -> Figure:
    """Three panels over one axis of epochs: learning rate, planned sparsity, windows."""
    from matplotlib.figure import Figure

    windows = schedule.windows(recipe, schedule.step_count(recipe, steps_per_epoch))
    rows = schedule.steps(recipe, steps_per_epoch)
    gradual = any(row["sparsity"] for row in rows)
    heights = [2.2, 1.8 if gradual else 0.5, INCHES_PER_WINDOW * len(windows) + 0.4]
    figure = Figure(figsize=(INCHES_WIDE, sum(heights) + 1.0), layout="constrained")
    rate, sparsity, spans = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    rates = [math.nan if row["lr"] is None else row["lr"] for row in rows]
    rate.step([row["epoch"] for row in rows], rates, where="post")
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    rate.set_ylabel("learning rate")
    rate.set_title(title)
    _sparsity(sparsity, rows)
    _windows(spans, recipe, windows)
    spans.set_xlim(0, recipe.num_epochs)
    spans.set_xlabel("epoch")
    figure.align_ylabels([rate, sparsity])
    for panel in (rate, sparsity, spans):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
    return figure


def _sparsity(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """A line for each group of weights that the recipe prunes step by step."""
    for name in dict.fromkeys(name for row in rows for name in row["sparsity"]):
        shares = [row["sparsity"].get(name) for row in rows]
        # Sparsity that the recipe does not plan, such as the student's own zeros, leaves a gap.
        drawn = [math.nan if share is None else 100 * share for share in shares]
        axes.step([row["epoch"] for row in rows], drawn, where="post", label=name)
    if axes.get_lines():
        axes.set_ylim(0, 100)
        axes.set_ylabel("planned sparsity, %")
        axes.legend(loc="lower right", fontsize="small")
    else:
        axes.text(
            0.5, 0.5, "no gradual pruning", transform=axes.transAxes, ha="center", va="center"
        )
        axes.set_yticks([])


def _windows(axes: Axes, recipe: Recipe, windows: list[dict[str, Any]]) -> None:
    """A bar for each modifier's window, the first on top, coloured by the modifier's kind.

    Those of modifiers that are off, as distillation is without a teacher, are pale.
    """
    shown = recipe.modifiers | recipe.without_teacher
    colours = {name: COLOURS.get(m.kind, OTHER_COLOUR) for name, m in shown.items()}
    for index, window in enumerate(windows):
        length = window["end_epoch"] - window["start_epoch"]
        colour = colours[window["name"]]
        alpha = 0.3 if window.get("off") else 1.0
        axes.barh(index, length, left=window["start_epoch"], height=0.7, color=colour, alpha=alpha)
    axes.set_yticks(range(len(windows)), [window["name"] for window in windows])
    axes.invert_yaxis()
