"""The machine and the installation: CPU, versions, commit, and how `sparsekit` is started."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import sparsekit

PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "onnx",
    "onnxruntime",
    "wandb",
    "hydra-core",
)
# About 2 ms.
SPIN_COUNT = "40000"
# Of x86, and of ARM: dot products of int8, and those of unsigned by signed bytes.
UNITS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
)
# What Linux tells about memory: of the machine, and of the process's control group.
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def expanded(path: str | Path) -> Path:
    """`path` with its first `~` or `~name` as a home folder; of a name that is no user's, as it is.

    `Path.expanduser` raises RuntimeError for such a name, which a file may have.
    """
    return Path(os.path.expanduser(path))


def bound_spinning() -> None:
    """Bound how long torch's threads spin while they wait; call it before torch is imported.

    A waiting thread of GNU OpenMP spins for about 16 ms by default. Where two threads share a core
    because another program occupies the other one, each wait costs a time slice of the scheduler: a
    chain of matmuls took 16 times as long as with a core for each thread, and 4 times as long with
    this bound of about 2 ms. A tighter bound costs more than it saves: threads that sleep between
    two operators have to be woken for each, and a step of MiniLM takes 1.4 times as long with 50 us
    (docs/performance/training.md). Settings of the user take precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def environment() -> dict[str, Any]:
    """The `environment` of summary.json, as plain values."""
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
    """The version of sparsekit and of each of `PACKAGES`; None where one is not installed."""
    installed: dict[str, str | None] = {"sparsekit": sparsekit.__version__}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    return installed


def command() -> str:
    """How the user's shell starts this sparsekit: its name, or its path where it is not on PATH."""
    script = Path(sys.executable).with_name("sparsekit")
    on_path = shutil.which("sparsekit")
    if on_path and (not script.exists() or script.samefile(on_path)):
        return "sparsekit"
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m sparsekit"
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))


def cpu_name() -> str:
    """The CPU's model name."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_units() -> dict[str, bool] | None:
    """Which vector and matrix units the CPU has; None on systems that do not list them."""
    flags = cpu_flags()
    return None if flags is None else {unit: unit in flags.split() for unit in UNITS}


def int8_sums_overflow() -> bool:
    """Whether the CPU adds pairs of uint8 x int8 products in 16 bits, which can overflow.

    So it is on x86 without VNNI. Runtimes that use those instructions saturate: a sum of 40,000
    becomes 32,767.
    """
    units = cpu_units() or {}
    has_vnni = units.get("avx512_vnni", False) or units.get("avx_vnni", False)
    return units.get("avx2", False) and not has_vnni


def cpu_flags() -> str | None:
    """The features of the CPU as Linux lists them; None on other systems."""
    info = _cpuinfo()
    return info.get("flags") or info.get("Features")  # on x86, and on ARM


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: fewer than the host's in a pinned container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes of memory that this process may still take; None on systems that do not tell.

    Within the limit of a control group (version 2), such as a container's. Memory of the page cache
    counts as free where the kernel can drop it.
    """
    found = [_free_memory(_MEMINFO), _left_in_group(_CGROUP)]
    return min((free for free in found if free is not None), default=None)


def _free_memory(meminfo: Path) -> int | None:
    if (line := re.search(r"^MemAvailable: *(\d+) kB$", _read(meminfo), re.MULTILINE)) is None:
        return None
    return 1024 * int(line[1])


def _left_in_group(folder: Path) -> int | None:
    limit, used = _read(folder / "memory.max").strip(), _read(folder / "memory.current").strip()
    if not (limit.isdecimal() and used.isdecimal()):  # "max": there is no limit
        return None
    cached = re.search(r"^inactive_file (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def commit() -> str | None:
    """The git commit of the checkout, with `-dirty` if it has changes; None outside of one."""
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
    """The fields of the first processor in /proc/cpuinfo; empty on systems without it."""
    first = _read(Path("/proc/cpuinfo")).split("\n\n")[0]
    lines = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _read(file: Path) -> str:
    """The text of a file of the kernel's; empty on systems without it."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
