"""`sparsekit compare`: runs side by side, averaged over their seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    folders: Annotated[list[Path], typer.Argument(help="Runs, sweeps, or folders above them.")],
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", "--out", help="The folder to write to. [default: FOLDER]"),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help='The metric to rank by, such as "test accuracy".')
    ] = None,
) -> None:
    """Compare runs over their seeds: a table here, compare.md, compare.csv and compare.html."""
    from sparsekit.cli.output import check_folder
    from sparsekit.compare.write import table, write_comparison
    from sparsekit.errors import printable
    from sparsekit.runs.report import show

    if out is not None:
        check_folder(out)
    comparison, files = write_comparison(folders, out, metric)
    if comparison.groups:
        show(table(comparison))
    for run in comparison.others:
        reason = (run.error or "").partition("\n")[0]
        typer.echo(f"{run.status}: {printable(str(run.folder))}: {reason}", err=True)
    typer.echo("compare: " + " ".join(map(str, files)))
