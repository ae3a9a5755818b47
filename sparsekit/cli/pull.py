"""`sparsekit pull`: a deployment from the Hugging Face Hub."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def pull(
    repository: Annotated[str, typer.Argument(help="A model on the Hub, such as user/name.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New folder. [default: the model's name]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Download a deployment from the Hub and check its files against their sums."""
    from sparsekit.onnx.hub import pull_deployment
    from sparsekit.runs.example import TEXTS
    from sparsekit.system import command

    target = output or Path(repository.rpartition("/")[2])
    files = pull_deployment(repository, target, revision)
    typer.echo(f"pulled: {target} ({files} files, unchanged since they were pushed)")
    typer.echo(f'Try next: {command()} predict {shlex.quote(str(target))} "{TEXTS[0]}"')
