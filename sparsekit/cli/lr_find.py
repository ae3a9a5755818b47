"""`sparsekit lr-find`: a learning rate from a short range test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsekit.cli.imports import uncollected
from sparsekit.cli.output import check_folder


def lr_find(
    words: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE...", help="Overrides as `sparsekit train` takes them."),
    ],
    lowest: Annotated[float, typer.Option(help="The learning rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="The learning rate of the last step.")] = 1e-2,
    steps: Annotated[int, typer.Option(help="Number of steps.")] = 150,
    config_dir: Annotated[
        Path | None, typer.Option(help="A folder of configs of your own, as `train` takes it.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of lr-find.json and lr-find.png.")
    ] = Path("lr-find"),
) -> None:
    """Train some steps at growing learning rates, and suggest one for the recipe.

    The loss is the task's, on the training rows, without teacher and quantization.
    """
    with uncollected():
        from sparsekit.pipeline.data_check import composed
        from sparsekit.pipeline.lr_find import find_rate, write
        from sparsekit.runs.progress import quiet_libraries
    # Not where it is drawn: a missing matplotlib is reported before any step is trained.
    from sparsekit.pipeline.lr_find_plot import plot

    check_folder(output)
    quiet_libraries()
    found = find_rate(composed(words, config_dir), lowest=lowest, highest=highest, steps=steps)
    write(found, output)
    last = found.rates[-1]
    typer.echo(
        f"{len(found.rates)} steps: the loss falls fastest at {found.steepest:.2g}, is lowest at "
        f"{found.lowest:.2g}" + (f", and diverges at {last:.2g}" if last < highest * 0.99 else "")
    )
    if not found.falls:
        typer.echo(
            "warning: the loss hardly fell, so the suggestion means little: take more --steps, or "
            "rates from a lower --lowest to a lower --highest",
            err=True,
        )
    typer.echo(f"suggested: recipe.init_lr={found.suggested:.2g}")
    plot(found, output / "lr-find.png")
    typer.echo(f"lr-find: {output}")
