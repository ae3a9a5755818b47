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
    """One object per optimizer step: step, epoch, lr (null: the optimizer's own), ..."""
    rows = []
    for step in range(round(recipe.num_epochs * steps_per_epoch)):
        epoch = step / steps_per_epoch
        rows.append(
            {
                "step": step,
                "epoch": epoch,
                "lr": recipe.lr(epoch, steps_per_epoch),
                "weight_decay": recipe.weight_decay(epoch),
                "sparsity": recipe.sparsity(epoch),
                "active": [n for n, m in recipe.modifiers.items() if m.active(epoch)],
            }
        )
    return rows


def epochs(recipe: Recipe, steps_per_epoch: int) -> Table:
    """What the recipe sets at the first step of each epoch, as a table for the terminal."""
    view = Table(title=f"At the start of each epoch, {steps_per_epoch} steps an epoch")
    view.add_column("epoch", justify="right")
    view.add_column("learning rate", justify="right")
    view.add_column("sparsity")
    view.add_column("active")
    for row in steps(recipe, steps_per_epoch)[::steps_per_epoch]:
        lr = "" if row["lr"] is None else f"{row['lr']:.3g}"
        planned = row["sparsity"].items()
        held = ", ".join(f"{name} {share:.1%}" for name, share in planned if share is not None)
        view.add_row(f"{row['epoch']:g}", lr, held, ", ".join(row["active"]))
    return view


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
