"""The instructions for which kernels of tiles are built: a CPU's own AMX, or an emulation in C."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from sparsekit.kernels.variants import NATIVE, VARIANTS, runnable
from sparsekit.system import cpu_flags

AMX = next(variant for variant in VARIANTS if variant.name == "amx")
HAS_AMX = AMX in runnable((cpu_flags() or "").split())
_EMULATION = Path(__file__).parents[1] / "kernels" / "emulated_amx.h"


def amx_flags(build: str) -> tuple[str, ...]:
    """The compiler's flags for AMX, on this "processor" or "emulated"; skips a test without it."""
    if build == "processor":
        if not HAS_AMX:
            pytest.skip("this processor has no AMX")
        return AMX.flags
    if platform.machine() != "x86_64":
        pytest.skip("the instructions that the emulation builds on are those of x86-64")
    # Without optimizations, which take a minute for vectors that no register holds.
    return ("-march=native", "-O1", "-include", str(_EMULATION))


def native_flags() -> tuple[str, ...]:
    """The flags for this processor's vectors, without tiles."""
    return (*NATIVE.flags, "-mno-amx-int8") if HAS_AMX else NATIVE.flags
