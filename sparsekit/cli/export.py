"""`sparsekit export`: a run's model exported again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Export a run's model again, with the run's own export config and all its checks.

    A failed run whose stages are all done afterwards becomes completed.
    """
    from rich.console import Console

    from sparsekit.cli.benchmark import run_node
    from sparsekit.config.build import build
    from sparsekit.export.hub import push
    from sparsekit.export.onnx import ExportConfig
    from sparsekit.export.onnx import export as export_run
    from sparsekit.pipeline.completion import completed
    from sparsekit.runs.folder import held
    from sparsekit.runs.progress import quiet_libraries
    from sparsekit.runs.report import closing_table, read_summary
    from sparsekit.runs.summary import write_summary

    quiet_libraries()
    node, before = run_node(run, "export"), read_summary(run)
    config = build(node, "export", ExportConfig) if node else ExportConfig()
    with held(run):
        summary = {**before, "export": export_run(run, config)}
        write_summary(run, summary)
        if config.push_to_hub is not None:
            summary["pushed"] = push(run / "deployment", config.push_to_hub)
            write_summary(run, summary)
        summary, lacking = completed(run, summary)
        write_summary(run, summary)
    Console().print(closing_table(summary, run))
    if lacking:
        typer.echo(f"the run stays failed: {lacking}", err=True)
