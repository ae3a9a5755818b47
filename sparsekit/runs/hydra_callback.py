"""What Hydra calls before it makes a run's folder. Imports no torch."""

from __future__ import annotations

import sys
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sparsekit.errors import UserError
from sparsekit.runs.folder import writable_folder


class RunFolder(Callback):
    """Ends in one message where Hydra's own `mkdir` of `hydra.run.dir` would end in a traceback."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with code 1 unless the folder can be written to."""
        try:
            writable_folder(config.hydra.run.dir, "hydra.run.dir")
        except UserError as error:
            # Hydra turns exceptions of callbacks into warnings, but lets an exit pass.
            sys.exit(f"error: {error}")
