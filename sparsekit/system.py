"""What a run ran on: machine, versions, commit. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "sparsekit",
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "onnx",
    "onnxruntime",
    "wandb",
    "hydra-core",
)
# About 2 ms of waiting.
SPIN_COUNT = "40000"
UNITS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def bound_spinning() -> None:
    """Let torch's threads sleep soon when they wait for one another; call it before torch loads.

    A waiting thread of GNU OpenMP spins for about 16 ms by default. Where two threads share a core,
    since another program has the other one, each wait then costs a turn of the scheduler: a chain
    of products took 16 times as long as with a core for each, and 4 times with this bound of about
    2 ms. A tighter one costs more than it saves: threads that sleep between two operators must be
    woken for each, and a step of MiniLM takes 1.4 times as long with 50 us
    (docs/performance/training.md).
    What the user has set holds.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def environment() -> dict[str, Any]:
    """The `environment` of a summary: plain values, ready for JSON."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_units": cpu_units(),
        "cores": cores(),
        "packages": versions(),
        "commit": commit(),
    }


def versions() -> dict[str, str | None]:
    """Distribution name to installed version; None where it is missing."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def cpu_name() -> str:
    """The CPU's model name."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_units() -> dict[str, bool] | None:
    """Which vector and matrix units the CPU has; None where the system does not tell (no Linux)."""
    flags = cpu_flags()
    return None if flags is None else {unit: unit in flags.split() for unit in UNITS}


def cpu_flags() -> str | None:
    """All that the CPU can do, as Linux names it; None elsewhere."""
    return _cpuinfo().get("flags")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; cgroup-pinned containers see fewer than the host
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def commit() -> str | None:
    """The git commit of the checkout that runs, with `-dirty` if changed; None for a wheel."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or no commit yet
        return None
    return result.stdout.strip()


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty on systems without it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}
