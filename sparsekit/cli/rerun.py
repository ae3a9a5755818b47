"""`sparsekit rerun`: repeat a run, and tell whether its weights are identical bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def rerun(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The new run's folder. [default: RUN-rerun]"),
    ] = None,
) -> None:
    """Repeat a run in a new folder, and compare weights, metrics and environment with the first.

    It is launched again with the overrides and from the working directory that the folder records,
    so repeat only runs that you trust. Exit code 1 means that the weights differ.
    """
    from sparsekit.cli.relaunch import relaunch
    from sparsekit.config.command_line import assigned
    from sparsekit.errors import UserError
    from sparsekit.runs.folder import RunFolder
    from sparsekit.runs.reproduction import differences, other_weights

    first = RunFolder(run.absolute())
    if not first.weights.is_file():
        raise UserError(f"{run} has no {first.weights.name} to compare with: it did not finish")
    second = RunFolder((output or first.path.with_name(f"{first.name}-rerun")).absolute())
    if second.path.exists():
        raise UserError(f"{second} exists; choose another folder with --output")
    changes = [assigned(key, str(second)) for key in ("hydra.run.dir", "output_dir")]
    relaunch(first, [*changes, "training.resume_from_checkpoint=null"])
    changed = other_weights(first, second)
    typer.echo("weights: the same bits" if not changed else f"weights: {changed}")
    for line in differences(first, second):
        typer.echo(line)
    raise typer.Exit(1 if changed else 0)
