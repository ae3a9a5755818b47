"""The peer environment of the old tools SparseML, SparseZoo and DeepSparse.

It has its own Python, which runs in subprocesses; sparsekit imports nothing from it.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

MAKE = "make peer-env (Python 3.11), or set SPARSEKIT_PEER_PYTHON to a Python that has it"
SECONDS = 60
# Scripts that run in the peer environment.
WORKERS = Path(__file__).parent / "workers"
# Prints the name of a package that is installed, without importing it, which would take seconds.
# A program with another output is not a Python.
_HAS = "import importlib.util as u, sys; print(sys.argv[1] if u.find_spec(sys.argv[1]) else '')"


def peer_python() -> Path | None:
    """The interpreter of `make peer-env`, or `SPARSEKIT_PEER_PYTHON`; None without one."""
    named = _named()
    made = Path(__file__).parents[2] / ".venv-peer"
    # Absolute, since workers run in other folders. A venv's symbolic link is not resolved: Python
    # finds the venv by it.
    python = Path(named).absolute() if named else made / "bin" / "python"
    # The stamp is written at the end of the installation.
    complete = named is not None or (made / ".installed").is_file()
    # False too where another user's folder hides it; Path.is_file would raise.
    return python if complete and os.path.isfile(python) else None


def peer_problem(package: str) -> str | None:
    """Why the old tool `package` cannot be used, in one line with the fix; None where it can."""
    named = _named()
    if named is None:
        return MAKE if peer_python() is None else None
    problem = _unusable(Path(named).absolute(), package)
    return problem and (
        f"SPARSEKIT_PEER_PYTHON is {named!r}, {problem}; set it to the Python of an environment "
        f"that has {package}, or unset it for that of make peer-env"
    )


def _named() -> str | None:
    return os.environ.get("SPARSEKIT_PEER_PYTHON") or None


@functools.cache
def _unusable(python: Path, package: str) -> str | None:
    if not os.path.exists(python):
        return "which does not exist"
    if not python.is_file() or not os.access(python, os.X_OK):
        return "which is not an executable file"
    try:
        done = subprocess.run(
            [python, "-I", "-c", _HAS, package], capture_output=True, text=True, timeout=SECONDS
        )
    except OSError as error:
        return f"which cannot be run ({error.strerror})"
    except subprocess.TimeoutExpired:
        return f"which did not answer within {SECONDS} s"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        return f"which cannot look for {package} ({lines[-1]})"
    return None if done.stdout.strip() == package else f"which has no {package}"
