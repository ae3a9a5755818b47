"""`sparsekit resume`: go on with an interrupted run, in its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def resume(run: Annotated[Path, typer.Argument(help="The folder of an interrupted run.")]) -> None:
    """Go on with an interrupted run from its newest whole checkpoint, with the settings it had.

    It is launched again with the overrides and from the working directory that the folder
    records, so resume only runs that you trust.
    """
    from sparsekit.cli.relaunch import relaunch
    from sparsekit.config.command_line import assigned
    from sparsekit.errors import UserError
    from sparsekit.runs.folder import RunFolder

    folder = RunFolder(run.absolute())
    if folder.path.is_dir() and folder.ending.status == "completed":
        raise UserError(f"{run} is completed: there is nothing to resume")
    place = assigned("hydra.run.dir", str(folder))
    relaunch(folder, [place, "training.resume_from_checkpoint=auto"])
