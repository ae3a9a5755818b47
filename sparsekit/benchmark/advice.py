"""What the timings and the CPU's flags mean, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Runtimes whose kernels skip zeros, on all CPUs that they run on.
SPARSE_KERNELS = ("deepsparse", "sparse")
# Below this share of zeros there is nothing to skip: trained weights hold few by chance.
FEW_ZEROS = 0.01
# Milliseconds below which what is around the model (tokenizing, the network) weighs as much.
SMALL_MS = 1.0
_INT8 = {"amx_int8": "AMX", "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI"}


Sizes = Mapping[str, Mapping[str, int]]


def size_advice(files: Sizes, dense: str, ours: str) -> str:
    """A sentence on the files of the candidates `dense` and `ours`, as they lie on disk and zipped.

    Packed is compared with unpacked: a dense model's weights hardly compress.
    """
    first, own = files[dense], files[ours]
    return (
        f"The file has {own['bytes'] / 1e6:.1f} MB, 1/{first['bytes'] / own['bytes']:.1f} of the "
        f"dense fp32 one; packed with zstd {own['bytes_compressed'] / 1e6:.1f} MB, "
        f"1/{first['bytes'] / own['bytes_compressed']:.1f} of it."
    )


def advice(
    rows: Sequence[Mapping[str, Any]], units: Mapping[str, bool] | None, zeros: float
) -> list[str]:
    """Sentences for the cell of the smallest batch and the longest sequence.

    rows: as `time_all` returns them; units: the CPU's flags, None where they are unknown; zeros:
    their share of the encoder's weights.
    """
    batch, length = min(row["batch"] for row in rows), max(row["sequence"] for row in rows)
    cell = [row for row in rows if (row["batch"], row["sequence"]) == (batch, length)]
    where = f"at batch {batch}, sequence {length}"
    return [_choice(cell, where), _units(units), *_zeros(cell, zeros)]


def _choice(cell: Sequence[Mapping[str, Any]], where: str) -> str:
    """What to run; by the speed-up, whose rounds a busy moment touches alike."""
    first = max(cell, key=_speedup)
    best = max((row for row in cell if row["form"] is not None), key=_speedup)
    times = [row["latency_ms_p50"] for row in cell]
    took = f"{best['latency_ms_p50']:.2f} ms"
    compared = f"{_times(best)} the dense fp32 model on onnxruntime"
    if max(times) < SMALL_MS:
        return (
            f"A small model: everything here answers in {min(times):.2f} to {max(times):.2f} ms "
            f"{where}, so that the choice of a runtime matters little. The fastest of this model "
            f"is {best['name']} with export.form={best['form']}: {took}, {compared}."
        )
    if first["form"] is None:
        return (
            f"Nothing here is faster than the {first['name']} twin "
            f"({first['latency_ms_p50']:.2f} ms {where}); the fastest of this model is "
            f"{best['name']} with export.form={best['form']} ({took}, {compared})."
        )
    return (
        f"Ship export.form={best['form']} and run it with {best['name']}: {took} {where}, "
        f"{compared}."
    )


def _zeros(cell: Sequence[Mapping[str, Any]], zeros: float) -> list[str]:
    if zeros < FEW_ZEROS:
        return ["The model has no zeros to skip: the speed is that of its numbers and its graph."]
    ours = [row for row in cell if row["form"] is not None]
    reasons = {}
    for row in ours:
        if row["name"] in SPARSE_KERNELS:
            reasons[row["name"]] = "its kernels skip them"
        elif row.get("packed_weights"):
            reasons[row["name"]] = "it reads the weights without them"
    # A way around the zeros is worth something where it is faster than all that go without one.
    usual = max((row for row in cell if row["name"] not in reasons), key=_speedup)
    said = [
        f"On {row['name']} the zeros bring speed: {reasons[row['name']]}."
        if row["speedup"] > max(1, usual["speedup"])
        else f"On {row['name']} the zeros bring no speed here, though {reasons[row['name']]}: "
        f"{_times(row)}, where {usual['name']} reaches {_times(usual)}."
        for row in ours
        if row["name"] in reasons
    ]
    if dense := sorted({row["name"] for row in ours} - reasons.keys()):
        said.append(
            f"On {' and '.join(dense)} the zeros bring size only: the speed is that of int8 and of "
            "the graph, and the file compresses better."
        )
    return said


def _speedup(row: Mapping[str, Any]) -> float:
    return float(row["speedup"])


def _times(row: Mapping[str, Any]) -> str:
    value = _speedup(row)
    return f"{value:.1f}x" if value >= 1 else f"{value:.2g}x"


def _units(units: Mapping[str, bool] | None) -> str:
    if units is None:
        return "Which int8 units this CPU has is unknown: the system does not list them."
    found = [name for flag, name in _INT8.items() if units.get(flag)]
    if found:
        without = "" if units.get("amx_int8") else "; no AMX, with which int8 would be faster yet"
        return f"This CPU multiplies int8 with {' and '.join(found)}{without}."
    return "This CPU has no int8 units (VNNI, AMX): int8 makes the file smaller more than faster."
