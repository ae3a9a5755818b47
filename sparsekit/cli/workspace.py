"""`sparsekit workspace`: a sweep's view in Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsekit.cli.allow import Allow, import_allowed


def workspace(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder.")], allow: Allow = None
) -> None:
    """Save a W&B view of a sweep: its axes, accuracy against latency. Upload its runs first."""
    from sparsekit.config.build import build
    from sparsekit.errors import UserError
    from sparsekit.runs.find import find_runs
    from sparsekit.runs.tracking import TrackingConfig
    from sparsekit.sweep.workspace import save_workspace

    import_allowed(allow)
    for run in find_runs(folder):
        if run.config_file.is_file():
            tracking = run.config["tracking"] | {"mode": "online"}
            config = build(tracking, "tracking", TrackingConfig)
            typer.echo(f"workspace: {save_workspace(folder, config)}")
            return
    raise UserError(f"there is no run in {folder}; give the folder of a sweep")
