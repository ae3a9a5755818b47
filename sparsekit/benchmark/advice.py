"""Sentences that say what the timings and the CPU's flags mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from sparsekit.sparsity.pruned import is_pruned

# Runtimes whose kernels skip zeros, on every CPU that they run on.
SPARSE_KERNELS = ("deepsparse", "sparse")
# Milliseconds below which what surrounds the model (tokenizing, the network) takes as long.
SMALL_MS = 1.0
_INT8 = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "i8mm": "NEON i8mm",
    "asimddp": "NEON dotprod",
}

Row = Mapping[str, Any]
Sizes = Mapping[str, Mapping[str, int]]


def size_advice(files: Sizes, dense: str, ours: str) -> str:
    """A sentence on the files of the candidates `dense` and `ours`, uncompressed and compressed.

    The compressed file is compared with the uncompressed dense one, whose weights hardly compress.
    """
    baseline, own = files[dense], files[ours]
    return (
        f"The file has {own['bytes'] / 1e6:.1f} MB, 1/{baseline['bytes'] / own['bytes']:.1f} of "
        f"the dense fp32 one; packed with zstd {own['bytes_compressed'] / 1e6:.1f} MB, "
        f"1/{baseline['bytes'] / own['bytes_compressed']:.1f} of it."
    )


def advice(
    rows: Sequence[Row], units: Mapping[str, bool] | None, zero_fraction: float
) -> list[str]:
    """Sentences on what to run, on the CPU's int8 units, and on what the zeros are worth.

    The first is for the smallest batch and the longest sequence; the others hold for every size.

    Args:
        rows: as `time_all` returns them.
        units: the CPU's flags, None where they are unknown.
        zero_fraction: of the encoder's weights, 0 to 1.
    """
    cells = [list(cell) for _, cell in groupby(sorted(rows, key=_size), key=_size)]
    main = min(cells, key=lambda cell: (cell[0]["batch"], -cell[0]["sequence"]))
    others = [cell for cell in cells if cell is not main]
    sentences = [_choice(main), *_other_choices(main, others), _units(units)]
    if not is_pruned(zero_fraction):
        return [
            *sentences,
            "The model has no zeros to skip: its speed is that of int8 and its graph.",
        ]
    return sentences + _zeros([main, *others])


def _choice(cell: Sequence[Row]) -> str:
    """What to run, by the speed-up: a busy moment slows the rounds of all candidates alike."""
    first, best = max(cell, key=_speedup), _best(cell)
    times = [row["latency_ms_p50"] for row in cell]
    took = f"{best['latency_ms_p50']:.2f} ms"
    compared = f"{_times(best)} the dense fp32 model on onnxruntime"
    if max(times) < SMALL_MS:
        return (
            f"A small model: every runtime answers in {min(times):.2f} to {max(times):.2f} ms "
            f"{_at(cell)}, so the choice of a runtime matters little. The fastest for this model "
            f"is {best['name']} with export.form={best['form']}: {took}, {compared}."
        )
    if first["form"] is None:
        return (
            f"Nothing here is faster than the baseline {first['name']!r} "
            f"({first['latency_ms_p50']:.2f} ms {_at(cell)}); the fastest for this model is "
            f"{best['name']} with export.form={best['form']} ({took}, {compared})."
        )
    return (
        f"Ship export.form={best['form']} and run it with {best['name']}: {took} {_at(cell)}, "
        f"{compared}."
    )


def _other_choices(main: Sequence[Row], others: Sequence[Sequence[Row]]) -> list[str]:
    """A sentence with the sizes at which another runtime is the fastest for this model."""
    usual = _best(main)["name"]
    fastest = [(cell, best) for cell in others if (best := _best(cell))["name"] != usual]
    if not fastest:
        return []
    parts = [f"{best['name']} {_at(cell)} ({_times(best)})" for cell, best in fastest]
    return [f"Faster at other sizes: {_listed(parts)}."]


def _zeros(cells: Sequence[Sequence[Row]]) -> list[str]:
    """For each runtime of this model, whether the zeros make it faster, at which sizes.

    Skipping zeros is worth something where it beats every candidate that does not skip them.
    """
    ours = [row for row in cells[0] if row["form"] is not None]
    reasons = {}
    for row in ours:
        if row["name"] in SPARSE_KERNELS:
            reasons[row["name"]] = "its kernels skip them"
        elif row.get("packed_weights"):
            reasons[row["name"]] = "it reads the weights without them"
    sentences = [_worth(name, reason, cells, reasons.keys()) for name, reason in reasons.items()]
    if dense := sorted({row["name"] for row in ours} - reasons.keys()):
        sentences.append(
            f"On {' and '.join(dense)} the zeros reduce the size only: the speed is that of int8 "
            "and of the graph, and the file compresses better."
        )
    return sentences


def _worth(
    name: str, reason: str, cells: Sequence[Sequence[Row]], skipping: Collection[str]
) -> str:
    gains: list[str] = []
    losses: list[str] = []
    for cell in cells:
        own = next(row for row in cell if row["name"] == name)
        usual = max((row for row in cell if row["name"] not in skipping), key=_speedup)
        gained = own["speedup"] > max(1, usual["speedup"])
        compared = f"{_times(own)} {_at(cell)}, where {usual['name']} reaches {_times(usual)}"
        (gains if gained else losses).append(compared)
    if not losses:
        return f"On {name} the zeros bring speed: {reason}."
    if not gains:
        return f"On {name} the zeros bring no speed here, though {reason}: {losses[0]}."
    return f"On {name} the zeros bring speed at some sizes: {'; '.join(gains)}; not {losses[0]}."


def _best(cell: Sequence[Row]) -> Row:
    """The fastest row of this model, baselines left out."""
    return max((row for row in cell if row["form"] is not None), key=_speedup)


def _size(row: Row) -> tuple[int, int]:
    return row["batch"], row["sequence"]


def _at(cell: Sequence[Row]) -> str:
    return f"at batch {cell[0]['batch']}, sequence {cell[0]['sequence']}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _speedup(row: Row) -> float:
    return float(row["speedup"])


def _times(row: Row) -> str:
    value = _speedup(row)
    return f"{value:.1f}x" if value >= 1 else f"{value:.2g}x"


def _units(units: Mapping[str, bool] | None) -> str:
    if units is None:
        return "Which int8 units this CPU has is unknown: the system does not list them."
    present = [name for flag, name in _INT8.items() if units.get(flag)]
    if present:
        on_arm = units.get("asimddp")
        without = "; it has no AMX, which would be faster still"
        without = "" if on_arm or units.get("amx_int8") else without
        return f"This CPU multiplies int8 with {' and '.join(present)}{without}."
    return (
        "This CPU has no int8 units (VNNI, AMX, dotprod): int8 gains less speed here than on one "
        "that has."
    )
