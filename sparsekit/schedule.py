"""A recipe over time: its windows in optimizer steps, and its values at every step."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from sparsekit.recipe import Recipe


def windows(recipe: Recipe, total_steps: int) -> list[dict[str, Any]]:
    """Each modifier's window in epochs and in optimizer steps [start_step, end_step)."""
    steps_per_epoch = total_steps / recipe.num_epochs
    rows = []
    for name, modifier in recipe.modifiers.items():
        end = recipe.num_epochs if modifier.end is None else modifier.end
        # The first step whose epoch, step / steps_per_epoch, lies in the window.
        first, last = (_first_step(epoch * steps_per_epoch) for epoch in (modifier.start, end))
        rows.append(
            {
                "name": name,
                "modifier": type(modifier).__name__,
                "start_epoch": modifier.start,
                "end_epoch": end,
                "start_step": first,
                "end_step": min(last, total_steps),
            }
        )
    return rows


def steps(recipe: Recipe, steps_per_epoch: int) -> list[dict[str, Any]]:
    """One object per optimizer step: step, epoch, lr (null: the optimizer's own), active."""
    rows = []
    for step in range(round(recipe.num_epochs * steps_per_epoch)):
        epoch = step / steps_per_epoch
        rows.append(
            {
                "step": step,
                "epoch": epoch,
                "lr": recipe.lr(epoch, steps_per_epoch),
                "weight_decay": recipe.weight_decay(epoch),
                "active": [n for n, m in recipe.modifiers.items() if m.active(epoch)],
            }
        )
    return rows


def table(recipe: Recipe, total_steps: int) -> Table:
    """The windows as a table for the terminal."""
    view = Table(title=f"Schedule: {recipe.num_epochs:g} epochs, {total_steps} steps")
    for heading in ("modifier", "kind", "epochs", "steps"):
        view.add_column(heading, justify="right" if heading in ("epochs", "steps") else "left")
    for row in windows(recipe, total_steps):
        view.add_row(
            row["name"],
            row["modifier"],
            f"{row['start_epoch']:g} - {row['end_epoch']:g}",
            f"{row['start_step']} - {row['end_step']}",
        )
    return view


def _first_step(position: float) -> int:
    # Steps are whole; the epsilon keeps 13.999... from becoming step 14 + 1.
    return -int(-(position - 1e-9) // 1)
