"""`sparsekit verify` and `sparsekit pull`: trust a run, and get one that others shared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Check a finished run again from its files: sums, masks, sparsity, graph, logits, metrics."""
    from rich.console import Console
    from rich.table import Table

    from sparsekit.report import read_summary
    from sparsekit.verification import verify_run

    view = Table("check", "found", title="verified")
    for what, value in verify_run(run, read_summary(run)).items():
        view.add_row(what, value)
    Console().print(view)


def pull(
    repository: Annotated[str, typer.Argument(help="A model on the Hub, as user/name.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New folder; the name if none.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Get a deployment from the Hub, and check that it came as it was pushed."""
    from sparsekit.export.hub import pull_deployment

    target = output or Path(repository.rpartition("/")[2])
    files = pull_deployment(repository, target, revision)
    typer.echo(f"pulled: {target} ({files} files, as they were pushed)")
    typer.echo(f'Try next: sparsekit predict {target} "I loved it!"')
