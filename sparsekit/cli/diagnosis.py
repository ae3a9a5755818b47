"""What this machine can run: the findings that `sparsekit doctor` shows."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsekit.cache import cache_folder
from sparsekit.errors import UserError
from sparsekit.kernels.errors import KernelError, NoCompilerError
from sparsekit.runs.wandb_run import wandb_mode
from sparsekit.runtime.deepsparse import DeepSparseRuntime
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.system import cores, cpu_name, cpu_units, versions

HUB_SECONDS = 3.0
INT8_UNITS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
BF16_UNITS = ("amx_bf16", "avx512_bf16")
# Of the packages that are listed, those that every installation needs.
REQUIRED = ("sparsekit", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` says what to do where something is missing."""

    what: str
    value: str
    fix: str | None = None


def diagnose() -> Iterator[Finding]:
    """Every finding, the machine first. Imports torch where it is installed."""
    yield Finding("python", platform.python_version())
    yield Finding("platform", platform.platform())
    yield Finding("cpu", f"{cpu_name()}, {cores()} cores")
    yield from _units()
    yield _gpu()
    yield _kernels()
    yield _sparse_runtime()
    yield from _packages()
    yield from _runtimes()
    yield _wandb()
    yield from _caches()
    yield _hub()


def _units() -> Iterator[Finding]:
    units = cpu_units()
    for what, names, without in (
        ("int8 units", INT8_UNITS, "int8 gains less speed here than with VNNI or AMX"),
        ("bf16 units", BF16_UNITS, "training runs in fp32 on this CPU"),
    ):
        if units is None:
            yield Finding(what, "unknown: this system does not list them")
        else:
            yield Finding(what, ", ".join(n for n in names if units[n]) or f"none: {without}")


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("gpu", "unknown: torch is not installed")
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("gpu", ", ".join(names))
    if torch.backends.mps.is_available():
        return Finding("gpu", "Apple (mps)")
    return Finding("gpu", "none: training runs on the CPU")


def _kernels() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("kernels", "unknown: torch is not installed")
    from sparsekit.kernels import quantize, sparse_linear
    from sparsekit.kernels.library import library, variant

    try:
        sparse_linear.compiled()
        library(quantize.KERNEL)
    except KernelError as error:
        return Finding("kernels", f"none, so training on the CPU is slower: {error}", _fix(error))
    used = "used"
    if (cpu_units() or {}).get("amx_bf16"):
        used = "not used here: dense ones in bf16 (AMX) are faster"
    elif not sparse_linear.pays_here():
        used = "not used here: they pay with AVX2 or AVX-512"
    return Finding("kernels", f"{variant().name}; sparse matmuls are {used}")


def _sparse_runtime() -> Finding:
    from sparsekit.runtime.sparse.native import compiled

    try:
        kernels = compiled()
        int8 = kernels.has_int8_dot_products() or kernels.max_int8_pair()
    except KernelError as error:
        return Finding("runtime=sparse", f"none: {error}", _fix(error))
    if not int8:
        slow = "multiplies in float32: there is neither VNNI nor AVX2, so int8 models are slower"
        return Finding("runtime=sparse", slow)
    tiles = ", in tiles (AMX) where that is faster" if kernels.has_amx() else ""
    return Finding("runtime=sparse", f"multiplies int8{tiles}")


def _fix(error: KernelError) -> str:
    """The fix of a missing compiler; other errors name theirs."""
    return "install gcc" if isinstance(error, NoCompilerError) else "see the message"


def _packages() -> Iterator[Finding]:
    """Versions; a package of the light installation is missing, one of training not installed."""
    for name, version in versions().items():
        if version:
            yield Finding(name, version)
        elif name in REQUIRED:
            yield Finding(name, "missing", f"pip install {name}")
        else:
            yield Finding(name, "not installed", "to train: pip install 'sparsekit[train]'")


def _runtimes() -> Iterator[Finding]:
    """The runtimes that are installed separately."""
    for kind in (OpenVinoRuntime, DeepSparseRuntime):
        fix = kind.missing()
        yield Finding(kind.name, "installed" if fix is None else "not installed", fix)


def _wandb() -> Finding:
    if importlib.util.find_spec("wandb") is None:
        return Finding("W&B", "not installed", "to train: pip install 'sparsekit[train]'")
    mode = wandb_mode("auto")
    if mode == "offline" and "WANDB_MODE" not in os.environ:
        return Finding("W&B", "offline: no key; `wandb login` or WANDB_API_KEY makes it online")
    return Finding("W&B", mode)


def _caches() -> Iterator[Finding]:
    from huggingface_hub import constants

    for what, folder in (
        ("sparsekit cache", cache_folder()),
        ("Hugging Face cache", Path(constants.HF_HOME)),
    ):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free / 1e9
        writable = os.access(existing, os.W_OK)
        yield Finding(
            what,
            f"{folder}, {free:.1f} GB free",
            None if writable else f"{existing} cannot be written; set SPARSEKIT_CACHE or HF_HOME",
        )


def _hub() -> Finding:
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT
    local = "give local folders (student.checkpoint=FOLDER), or set HF_ENDPOINT to a mirror"
    if constants.is_offline_mode():
        return Finding("Hub", f"{endpoint}, offline (HF_HUB_OFFLINE)", local)
    try:
        urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_SECONDS
        ).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return Finding("Hub", f"{endpoint}, not reached: {reason}", local)
    return Finding("Hub", f"{endpoint}, reachable")


def check_required(findings: list[Finding]) -> None:
    """Raise UserError if a package that sparsekit needs is missing."""
    names = [finding.what for finding in findings if finding.value == "missing"]
    if names:
        raise UserError(f"missing: {', '.join(names)}; run pip install {' '.join(names)}")
