"""`sparsekit init`: a small project to start from."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from sparsekit.errors import UserError
from sparsekit.system import command

TEMPLATE = Path(__file__).with_name("project")


def init(
    folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.")],
) -> None:
    """Write a project with its own dataset, recipe and experiment, ready to run."""
    write_project(folder)
    typer.echo(f"project: {folder}")
    inside = f"cd {shlex.quote(str(folder))}"
    typer.echo(f"Try next: {inside} && {command()} train --config-dir conf experiments=mine")


def write_project(folder: Path) -> None:
    """Copy the template to `folder`; raises UserError unless that is new or empty."""
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty: choose a new folder")
        shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True)
    except NotADirectoryError as error:
        raise UserError(f"{folder} is a file: choose a new folder") from error
