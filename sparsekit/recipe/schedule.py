"""A recipe over time: its windows in optimizer steps, and its values at every step."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table

from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.epochs import EPSILON
from sparsekit.recipe.recipe import Recipe


def windows(recipe: Recipe, total_steps: int) -> list[dict[str, Any]]:
    """Each modifier's window in epochs and in optimizer steps [start_step, end_step).

    `note`, where there is one, says what else is known of the modifier, or why it is off; `off` is
    true for those that are.
    """
    rows = [
        _window(recipe, name, modifier, total_steps, modifier.note)
        for name, modifier in recipe.modifiers.items()
    ]
    return rows + [
        _window(recipe, name, modifier, total_steps, "off: no teacher, the task's loss alone")
        | {"off": True}
        for name, modifier in recipe.without_teacher.items()
    ]


def _window(
    recipe: Recipe, name: str, modifier: Modifier, total_steps: int, note: str
) -> dict[str, Any]:
    steps_per_epoch = total_steps / recipe.num_epochs
    end = recipe.num_epochs if modifier.end is None else modifier.end
    # The first step whose epoch, step / steps_per_epoch, lies in the window.
    first, last = (_first_step(epoch * steps_per_epoch) for epoch in (modifier.start, end))
    row = {
        "name": name,
        "modifier": type(modifier).__name__,
        "start_epoch": modifier.start,
        "end_epoch": end,
        "start_step": first,
        "end_step": min(last, total_steps),
    }
    return {**row, "note": note} if note else row


def steps(recipe: Recipe, steps_per_epoch: int) -> list[dict[str, Any]]:
    """One object per optimizer step: step, epoch, lr (null: the optimizer's own), ..."""
    rows = []
    for step in range(step_count(recipe, steps_per_epoch)):
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


def step_count(recipe: Recipe, steps_per_epoch: int) -> int:
    """The optimizer steps of a training, which has one at least.

    >>> tuple(step_count(Recipe(epochs, {}, {}), 1) for epochs in (0.4, 2.0, 2.6))
    (1, 2, 3)
    """
    return max(1, round(recipe.num_epochs * steps_per_epoch))


def epochs(recipe: Recipe, steps_per_epoch: int) -> Table:
    """What the recipe sets at the first step of each epoch and at the last of all, as a table."""
    view = Table(
        title=f"At the start of each epoch and at the end, {steps_per_epoch} steps an epoch"
    )
    view.add_column("epoch", justify="right")
    view.add_column("learning rate", justify="right")
    view.add_column("sparsity")
    view.add_column("active")
    rows, before = steps(recipe, steps_per_epoch), None
    for row in [*rows[::steps_per_epoch], rows[-1]]:
        lr = "" if row["lr"] is None else f"{row['lr']:.3g}"
        active = "as above" if row["active"] == before else ", ".join(row["active"])
        view.add_row(f"{row['epoch']:g}", lr, _shares(row["sparsity"]), active)
        before = row["active"]
    return view


def _shares(planned: dict[str, float | None]) -> str:
    """Planned sparsities, a modifier's groups together: `pruning 80%, other 60-70%`."""
    shares: dict[str, list[float]] = {}
    for group, share in planned.items():
        if share is not None:
            shares.setdefault(group.partition(":")[0], []).append(100 * share)
    return ", ".join(
        f"{name} {min(each):.1f}%"
        if min(each) == max(each)
        else f"{name} {min(each):.1f}-{max(each):.1f}%"
        for name, each in shares.items()
    )


def _counted(count: float, noun: str) -> str:
    """As in `1 epoch` and `2 epochs`."""
    return f"{count:.15g} {noun}{'' if count == 1 else 's'}"


def table(recipe: Recipe, total_steps: int) -> Table:
    """The windows as a table for the terminal."""
    epochs, steps = _counted(recipe.num_epochs, "epoch"), _counted(total_steps, "step")
    view = Table(title=f"Schedule: {epochs}, {steps}")
    rows = windows(recipe, total_steps)
    for heading in ("modifier", "kind", "epochs", "steps"):
        view.add_column(heading, justify="right" if heading in ("epochs", "steps") else "left")
    if any("note" in row for row in rows):
        view.add_column("note")
    for row in rows:
        view.add_row(
            row["name"],
            row["modifier"],
            f"{row['start_epoch']:g} - {row['end_epoch']:g}",
            f"{row['start_step']} - {row['end_step']}",
            *([row["note"]] if "note" in row else []),
        )
    return view


def _first_step(position: float) -> int:
    # Rounded up, but 14.000...1 does not become 15.
    return math.ceil(position - EPSILON)
