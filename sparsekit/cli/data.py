"""`sparsekit data`: a look at a data set before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sparsekit.cli.imports import uncollected


def data(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE... [KEY=VALUE...]",
            help="Files of train, validation and test, then overrides as `train` takes them.",
        ),
    ],
    config_dir: Annotated[
        Path | None, typer.Option(help="A folder of configs of your own, as `train` takes it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run would read: rows, classes, lengths, repeated texts, and what is wrong.

    Ends with exit code 1 where a run would refuse the data.
    """
    with uncollected():
        from sparsekit.data.profile_table import table
        from sparsekit.pipeline.data_check import check_data, composed, overrides_of
        from sparsekit.runs.progress import quiet_libraries
        from sparsekit.runs.report import show

    quiet_libraries()
    check = check_data(composed(overrides_of(words), config_dir))
    if as_json:
        typer.echo(json.dumps({**check.figures, "problems": check.problems}, indent=2))
    else:
        show(table(check.figures))
        for warning in check.figures["warnings"]:
            typer.echo(f"warning: {warning}")
        for problem in check.problems:
            typer.echo(f"error: {problem}")
        if check.note:
            typer.echo(f"note: {check.note}")
    if check.problems:
        raise typer.Exit(1)
