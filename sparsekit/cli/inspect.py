"""`sparsekit inspect`: what a model's weights hold, layer by layer."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def inspect(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a Hub id.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show each layer's sparsity, N:M pattern and quantization."""
    from sparsekit.models.inspection import inspect, table
    from sparsekit.runs.report import show

    inspection = inspect(model)
    if as_json:
        typer.echo(json.dumps(inspection.as_dict(), indent=2))
    else:
        show(table(inspection))
