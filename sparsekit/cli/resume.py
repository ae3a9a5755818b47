"""`sparsekit resume`: go on with an interrupted run, in its own folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def resume(run: Annotated[Path, typer.Argument(help="The folder of an interrupted run.")]) -> None:
    """Go on with an interrupted run from its newest whole checkpoint, with the settings it had.

    It is launched again with the overrides and from the working directory that the folder
    records, so resume only runs that you trust.
    """
    from sparsekit.cli.launch import launch
    from sparsekit.errors import UserError
    from sparsekit.runs.folder import RunFolder

    folder = RunFolder(run.absolute())
    directory, added = folder.launched_from
    if folder.ending.status == "completed":
        raise UserError(f"{run} is completed: there is nothing to resume")
    own = "training.resume_from_checkpoint="
    words = [word for word in folder.overrides if not word.lstrip("+").startswith(own)]
    for configs in added:
        words += ["--config-dir", str(configs)]
    try:
        # Overrides may name files relative to where the run was started.
        os.chdir(directory)
    except OSError as error:
        raise UserError(
            f"{run} was started in {directory}, which cannot be entered ({error.strerror}); make "
            "that folder again: relative paths of the run begin there"
        ) from error
    launch([*words, f"hydra.run.dir={folder}", f"{own}auto"])
