"""`sparsekit verify`, `pull` and `workspace`: trust a run, get another's, show a sweep in W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Check a finished run again from its files: sums, masks, sparsity, graph, logits, metrics."""
    from rich.table import Table
    from rich.text import Text

    from sparsekit.pipeline.verification import verify_run
    from sparsekit.runs.progress import quiet_libraries
    from sparsekit.runs.report import read_summary, show

    quiet_libraries()
    summary = read_summary(run)
    found = verify_run(run, summary)
    completed = summary.get("status") == "completed"
    view = Table(
        "check", "found", title="verified" if completed else "files verified, but the run failed"
    )
    for what, value in found.items():
        # As text: errors quote names in brackets.
        view.add_row(what, Text(value, overflow="fold"))
    show(view)


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
    typer.echo(f'Try next: sparsekit predict {target} "This movie is funny and moving."')


def workspace(folder: Annotated[Path, typer.Argument(help="A sweep's folder.")]) -> None:
    """Save a W&B view of a sweep: its axes, accuracy against latency. Upload its runs first."""
    import yaml

    from sparsekit.config.build import build
    from sparsekit.errors import UserError
    from sparsekit.runs.folder import find_runs
    from sparsekit.runs.tracking import TrackingConfig
    from sparsekit.sweep.workspace import save_workspace

    for run in find_runs(folder):
        if (run / "config.yaml").is_file():
            settings = yaml.safe_load((run / "config.yaml").read_text())
            tracking = settings["tracking"] | {"mode": "online"}
            config = build(tracking, "tracking", TrackingConfig)
            typer.echo(f"workspace: {save_workspace(folder, config)}")
            return
    raise UserError(f"there is no run in {folder}; give the folder of a sweep")
