"""The processes that train one model, as torchrun numbers them."""

from __future__ import annotations

import os

# Only the first process writes results.
FIRST_PROCESS = os.environ.get("RANK", "0") == "0"
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
