"""What Hydra calls before it writes to a run's folder. Imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sparsekit.errors import UserError
from sparsekit.runs.creation import writable_folder
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.launch_record import keep_record
from sparsekit.runs.replacement import check_replaceable


class ClaimRunFolder(Callback):
    """Claims `hydra.run.dir` before Hydra writes `.hydra/` and its log there.

    A folder that cannot be written to, that holds another tool's files or in which another process
    is running stays as it is; the program exits with one message, Hydra's `mkdir` with a traceback.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with code 1 unless the folder can be used, and keep its lock if it can."""
        run = RunFolder(Path(config.hydra.run.dir))
        try:
            check_replaceable(run)
            writable_folder(run.path, "hydra.run.dir")
            run.hold()
            keep_record(run)
        except UserError as error:
            # Hydra turns exceptions of callbacks into warnings, but lets an exit pass.
            sys.exit(f"error: {error}")
