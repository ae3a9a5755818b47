"""The environment of the old tools (SparseML, SparseZoo, DeepSparse): its own Python, spoken to
through a subprocess, never imported."""

from __future__ import annotations

import os
from pathlib import Path

MAKE = "make peer-env (Python 3.11), or set SPARSEKIT_PEER_PYTHON to a Python that has it"


def peer_python() -> Path | None:
    """The interpreter that `make peer-env` made, or `SPARSEKIT_PEER_PYTHON`; None without one."""
    named = os.environ.get("SPARSEKIT_PEER_PYTHON")
    made = Path(__file__).parents[1] / ".venv-peer"
    python = Path(named) if named else made / "bin" / "python"
    # The stamp says that the installation came to its end.
    complete = named is not None or (made / ".installed").is_file()
    return python if complete and python.is_file() else None
