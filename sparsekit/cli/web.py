"""`sparsekit web`: a page that runs a model in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def web(
    run: Annotated[Path, typer.Argument(help="A run folder, or its deployment folder.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the page: new or empty.")
    ],
    title: Annotated[
        str | None, typer.Option(help="The page's heading. [default: the name of the run]")
    ] = None,
) -> None:
    """Write a page that classifies texts in the browser as they are typed.

    The folder needs a static server, and no network beyond itself. Its model has the weights
    without zeros; the kernels are those of `runtime=sparse`, as WebAssembly.
    """
    from sparsekit.runtime.deployment import deployment_of, name_of
    from sparsekit.web.write import MODEL, write_page

    written = write_page(deployment_of(run), output, title or name_of(run))
    for name, size in written.sizes.items():
        typer.echo(f"{size / 1e6:9.3f} MB  {output / name}")
    total = sum(written.sizes.values())
    typer.echo(
        f"{total / 1e6:9.3f} MB in all; {MODEL} has {written.unpacked / 1e6:.3f} MB unpacked"
    )
    typer.echo(f"serve it: python -m http.server --directory {output}")
