"""The instruction sets that kernels are built for, and the choice of one by the CPU's features."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sparsekit.kernels.errors import KernelError

VARIABLE = "SPARSEKIT_KERNELS"


@dataclass(frozen=True)
class Variant:
    """An instruction set.

    flags: those of GCC and Clang. features: what the CPU needs, by the names of /proc/cpuinfo;
    empty where the compiler finds out, which is only right on the machine that runs the code.
    """

    name: str
    flags: tuple[str, ...]
    features: frozenset[str] = frozenset()


# The x86-64 levels 3 and 4 of the psABI, of which level 3 includes level 2.
_LEVEL_3 = frozenset(
    [
        "cx16",
        "lahf_lm",
        "popcnt",
        "sse4_1",
        "sse4_2",
        "ssse3",
        "abm",
        "avx",
        "avx2",
        "bmi1",
        "bmi2",
        "f16c",
        "fma",
        "movbe",
    ]
)
_LEVEL_4 = _LEVEL_3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])

NATIVE = Variant("native", ("-march=native",))
# The fastest first. A CPU with both int8 instructions multiplies more bytes at once with AVX-512.
VARIANTS = (
    Variant(
        "amx",
        (
            "-march=x86-64-v4",
            "-mavx512vnni",
            "-mavx512vbmi2",
            "-mamx-tile",
            "-mamx-int8",
            "-mamx-bf16",
        ),
        _LEVEL_4 | {"avx512_vnni", "avx512_vbmi2", "amx_tile", "amx_int8", "amx_bf16"},
    ),
    Variant("avx512_vnni", ("-march=x86-64-v4", "-mavx512vnni"), _LEVEL_4 | {"avx512_vnni"}),
    Variant("avx512", ("-march=x86-64-v4",), _LEVEL_4),
    Variant("avx_vnni", ("-march=x86-64-v3", "-mavxvnni"), _LEVEL_3 | {"avx_vnni"}),
    Variant("avx2", ("-march=x86-64-v3",), _LEVEL_3),
)


def runnable(features: Collection[str]) -> list[Variant]:
    """The variants that a CPU with these features can run, the fastest first."""
    return [variant for variant in VARIANTS if variant.features.issubset(features)]


def chosen(features: Collection[str], built: Sequence[Variant]) -> Variant:
    """The variant to load: the one that `$SPARSEKIT_KERNELS` names, else the fastest of `built`.

    NATIVE where the CPU can run none of them. Raises KernelError for a name that is unknown, or
    that of a variant that this CPU cannot run: its first instruction would end the process.
    """
    possible = runnable(features)
    name = os.environ.get(VARIABLE, "")
    if not name:
        return next((variant for variant in possible if variant in built), NATIVE)
    known = {variant.name: variant for variant in (*VARIANTS, NATIVE)}
    if name not in known:
        raise KernelError(f"{VARIABLE}={name} is unknown; choose one of {', '.join(known)}")
    variant = known[name]
    if missing := sorted(variant.features - set(features)):
        names = ", ".join(each.name for each in (*possible, NATIVE))
        raise KernelError(
            f"{VARIABLE}={name}: this CPU lacks {', '.join(missing)}; choose one of {names}, or "
            f"unset {VARIABLE}"
        )
    return variant
