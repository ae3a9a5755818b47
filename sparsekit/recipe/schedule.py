"""A recipe over time: its windows in optimizer steps, and its values at every step."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table

from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.recipe.recipe import Recipe


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


def never_quantized(recipe: Recipe, total_steps: int) -> list[str]:
    """A problem for each quantization whose ranges no step observes.

    Its quantizers would go into the deployment with the scale 1 that they began with, which makes
    most weights zero.
    """
    apart = recipe.num_epochs / total_steps
    problems = []
    for name, modifier in recipe.modifiers.items():
        # A window that no run could have is a problem of the modifier's own.
        if not isinstance(modifier, Quantization) or modifier.problems(recipe.num_epochs):
            continue
        ends = (modifier.disable_observer_epoch, modifier.end, recipe.num_epochs)
        start, stop = modifier.start, min(end for end in ends if end is not None)
        first = int(start / apart)
        near = range(max(0, first - 1), min(total_steps, first + 3))
        # The epoch of a step is reckoned as it is while training, so that both agree to the bit.
        if any(start <= step / total_steps * recipe.num_epochs < stop for step in near):
            continue
        # A window as long as a step is apart from the next holds one. Our recipes observe ranges
        # for half of qat_epochs or longer.
        enough = math.ceil(recipe.num_epochs / (stop - start))
        longer = min(recipe.num_epochs, math.ceil(2 * apart * 100) / 100)
        problems.append(
            f"recipe.modifiers.{name} observes its ranges from epoch {start:g} to {stop:g}, but "
            f"none of the {total_steps} optimizer steps, {apart:g} epochs apart, lies there, so "
            f"that nothing would be quantized: train {enough} steps or more (training.max_steps, "
            f"or smaller batches), begin earlier (in our recipes recipe.qat_epochs="
            f"{longer:g}), or leave quantization out (recipe.qat_epochs=0)"
        )
    return problems


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
