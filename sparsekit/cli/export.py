"""`sparsekit export`: a run's model exported again, or its deployment in another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsekit.cli.allow import Allow, import_allowed
from sparsekit.cli.imports import uncollected
from sparsekit.errors import UserError


def export(
    run: Annotated[
        Path, typer.Argument(help="A run folder; with --layout also a deployment folder.")
    ],
    layout: Annotated[
        str | None,
        typer.Option(
            help="Write the existing deployment for another server or client: triton, "
            "triton-openvino, ovms or transformers.js."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the layout. [default: repository/ in the run folder]"
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The model's name in the layout. [default: the run folder's]"),
    ] = None,
    allow: Allow = None,
) -> None:
    """Export a run's model again, with the run's own export config and all its checks.

    A failed run whose stages are all done afterwards becomes completed. With `--layout` nothing is
    exported: the deployment that is there is written as another server or client reads it.
    """
    import_allowed(allow)
    if layout is not None:
        from sparsekit.onnx.layouts.write import write_layout

        typer.echo(f"{layout}: {write_layout(run, layout, output, name)}")
        return
    if output is not None or name is not None:
        raise UserError("--output and --name belong to --layout: add --layout triton, for example")

    with uncollected():
        from sparsekit.pipeline.exporting import export_folder
    from sparsekit.runs.folder import RunFolder
    from sparsekit.runs.report import show_closing

    folder = RunFolder(run)
    summary, lacking = export_folder(folder, {})
    show_closing(summary, folder)
    if lacking:
        typer.echo(f"the run stays failed: {lacking}", err=True)
