"""`sparsekit export`: a run's model exported again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Export a run's model again, with the run's own export config and all its checks.

    A failed run whose stages are all done afterwards becomes completed.
    """
    from sparsekit.config.build import build
    from sparsekit.onnx.export import ExportConfig
    from sparsekit.onnx.export import export as export_run
    from sparsekit.onnx.hub import push
    from sparsekit.pipeline.completion import completed
    from sparsekit.runs.folder import RunFolder
    from sparsekit.runs.progress import quiet_libraries
    from sparsekit.runs.report import show_closing

    quiet_libraries()
    folder = RunFolder(run)
    node, before = folder.node("export"), folder.summary
    config = build(node, "export", ExportConfig) if node else ExportConfig()
    with folder.lock():
        summary = {**before, "export": export_run(run, config)}
        folder.write_summary(summary)
        if config.push_to_hub is not None:
            summary["pushed"] = push(folder.deployment, config.push_to_hub)
            folder.write_summary(summary)
        summary, lacking = completed(folder, summary)
        folder.write_summary(summary)
    show_closing(summary, folder)
    if lacking:
        typer.echo(f"the run stays failed: {lacking}", err=True)
