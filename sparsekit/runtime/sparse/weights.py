"""Linear layers without their zeros, in the layouts that the C kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from sparsekit.runtime.sparse.graph import Array
from sparsekit.runtime.sparse.structure import Linear


class Form(IntEnum):
    """How a tensor lies in memory, and a weight that meets it; see csrc/encoder/tensors.h."""

    PLAIN = 0
    ROUNDED = 1
    FOURS = 2
    PLANES = 3


# Of a chunk of a row, as sparse_matmul.h has it: units of 32 bits; inputs, in the form PLANES.
UNITS = 96
INPUTS = 768
# How much longer a step of the form PLANES takes than a unit of FOURS: of whole tiles 1.5 times on
# a processor with one load of 64 bytes a cycle, more with two loads and one shuffle.
STEP_COST = 2.5


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """What the C structure `weight` points to; see csrc/encoder/sparse_matmul.h."""

    rows: int
    chunks: int
    form: Form
    pointers: Array
    places: Array
    values: Array
    starts: Array
    scales: Array
    biases: Array


def form_of(linears: Sequence[Linear]) -> Form:
    """The form in which layers that read one tensor multiply fastest, where bytes are multiplied.

    PLAIN, that is float32, for layers that are not quantized.
    """
    if not all(_multiplies_integers(linear) for linear in linears):
        return Form.PLAIN
    numbers = sum(np.count_nonzero(linear.weight) for linear in linears)
    units = sum(np.count_nonzero(_units(linear.weight)) for linear in linears)
    return Form.PLANES if STEP_COST * numbers / 4 < units else Form.FOURS


def pack(linears: Sequence[Linear], form: Form) -> PackedWeight:
    """The outputs of several Linear layers that read the same tensor, one layer after the other."""
    biases = np.concatenate([linear.bias for linear in linears]).astype(np.float32)
    if form == Form.PLAIN:
        weight = np.concatenate([_floats(linear) for linear in linears])
        starts, scales = np.zeros(len(weight), np.int32), np.ones(len(weight), np.float32)
    else:
        reads = linears[0].inputs
        assert reads is not None
        weight = np.concatenate([linear.weight for linear in linears])
        starts = -reads.zero_point * weight.sum(axis=1, dtype=np.int32)
        scales = np.concatenate([np.float32(reads.scale) * _scale(linear) for linear in linears])
    layout = steps(weight) if form == Form.PLANES else compress(_units(weight))
    pointers, places, values = layout
    return PackedWeight(
        rows=len(weight),
        chunks=len(pointers),
        form=form,
        pointers=pointers,
        places=places,
        values=values,
        starts=starts,
        scales=scales.astype(np.float32),
        biases=biases,
    )


def compress(units: Array) -> tuple[Array, Array, Array]:
    """Pointers [chunks, rows + 1], and places and values of the units [rows, n] that are not 0.

    >>> pointers, places, values = compress(np.array([[0, 7], [0, 0], [8, 9]], np.int32))
    >>> pointers.tolist(), places.tolist(), values.tolist()
    ([[0, 1, 1, 3]], [1, 0, 1], [7, 8, 9])
    """
    pointers, places, values, count = [], [], [], 0
    for start in range(0, units.shape[1], UNITS):
        chunk = units[:, start : start + UNITS]
        rows, columns = np.nonzero(chunk)
        pointers.append(count + _ends(np.bincount(rows, minlength=len(units))))
        places.append(columns.astype(np.uint8))
        values.append(chunk[rows, columns])
        count += len(rows)
    return np.stack(pointers), np.concatenate(places), np.concatenate(values)


def steps(weight: Array) -> tuple[Array, Array, Array]:
    """Pointers [chunks, rows + 1], and of each step four places and four int8 as one int32.

    The numbers of a row's chunk that are not 0 are taken in turn; zeros fill up its last step.

    >>> pointers, places, values = steps(np.array([[0, 7, 1, 2, 3, 4], [0] * 6], np.int8))
    >>> pointers.tolist(), places.tolist(), values.view(np.int8).reshape(-1, 4).tolist()
    ([[0, 2, 2]], [[1, 2, 3, 4], [5, 0, 0, 0]], [[7, 1, 2, 3], [4, 0, 0, 0]])
    """
    pointers, places, values, count = [], [], [], 0
    for start in range(0, weight.shape[1], INPUTS):
        chunk = np.ascontiguousarray(weight[:, start : start + INPUTS])
        # Faster than nonzero of both axes.
        numbers_at = np.flatnonzero(chunk != 0)
        rows, columns = np.divmod(numbers_at, chunk.shape[1])
        numbers = np.bincount(rows, minlength=len(weight))
        ends = _ends((numbers + 3) // 4)
        # Where each number goes: behind those of its row that come before it.
        at = 4 * ends[rows] + np.arange(len(rows)) - _ends(numbers)[rows]
        place, value = np.zeros(4 * ends[-1], np.uint16), np.zeros(4 * ends[-1], np.int8)
        place[at], value[at] = columns, chunk.ravel()[numbers_at]
        pointers.append(count + ends)
        places.append(place.reshape(-1, 4))
        values.append(value.view(np.int32))
        count += ends[-1]
    return np.stack(pointers), np.concatenate(places), np.concatenate(values)


def _ends(counts: Array) -> Array:
    """Where each of so many things begins, and where the last ones end."""
    ends: Array = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return ends


def _multiplies_integers(linear: Linear) -> bool:
    """Whether its product is one of uint8 and int8."""
    return (
        linear.scale is not None and linear.inputs is not None and linear.inputs.dtype == np.uint8
    )


def _units(weight: Array) -> Array:
    """32 bits at a time: numbers of float32, or four int8."""
    units = np.ascontiguousarray(weight).view(np.int32)
    if weight.dtype == np.int8:
        return units
    # Minus zero is a zero too.
    return np.where(weight == 0, np.int32(0), units)


def _scale(linear: Linear) -> Array:
    assert linear.scale is not None
    return linear.scale


def _floats(linear: Linear) -> Array:
    if linear.scale is None:
        return linear.weight.astype(np.float32)
    floats: Array = (linear.weight * linear.scale[:, None]).astype(np.float32)
    return floats
