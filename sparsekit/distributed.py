"""The processes that train one model, as torchrun numbers them."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Only the first process writes results.
FIRST_PROCESS = os.environ.get("RANK", "0") == "0"
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))


def scratch_folder() -> str:
    """A new folder for what this process writes, which is removed at its end.

    The run folder belongs to the first process.
    """
    folder = tempfile.mkdtemp(prefix="sparsekit-process-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
