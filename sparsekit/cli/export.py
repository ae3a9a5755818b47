"""`sparsekit export`: a run's model exported again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsekit.cli.allow import Allow, import_allowed


def export(run: Annotated[Path, typer.Argument(help="A run folder.")], allow: Allow = None) -> None:
    """Export a run's model again, with the run's own export config and all its checks.

    A failed run whose stages are all done afterwards becomes completed.
    """
    from sparsekit.pipeline.exporting import export_folder
    from sparsekit.runs.folder import RunFolder
    from sparsekit.runs.report import show_closing

    import_allowed(allow)
    folder = RunFolder(run)
    summary, lacking = export_folder(folder, {})
    show_closing(summary, folder)
    if lacking:
        typer.echo(f"the run stays failed: {lacking}", err=True)
