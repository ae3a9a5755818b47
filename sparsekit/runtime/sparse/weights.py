"""Linear layers without their zeros, in the layout that the C kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsekit.runtime.sparse.graph import Array
from sparsekit.runtime.sparse.structure import Linear

# Units of 32 bits in a chunk of a row's inputs, as encoder_linear.h has it.
UNITS = 96


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """What the C structure `weight` points to; see encoder_linear.h."""

    rows: int
    chunks: int
    in_bytes: bool
    pointers: Array
    places: Array
    values: Array
    starts: Array
    scales: Array
    biases: Array

    @property
    def kept(self) -> float:
        """The share of units that are not left out."""
        return len(self.values) / (self.rows * self.chunks * UNITS)


def multiplies_integers(linear: Linear) -> bool:
    """Whether its product is one of uint8 and int8."""
    return (
        linear.scale is not None and linear.inputs is not None and linear.inputs.dtype == np.uint8
    )


def pack(linears: Sequence[Linear], in_bytes: bool) -> PackedWeight:
    """The outputs of several Linear layers that read the same tensor, one layer after the other.

    in_bytes: products run on integers, of layers with `multiplies_integers`; else on float32.
    """
    biases = np.concatenate([linear.bias for linear in linears]).astype(np.float32)
    reads = linears[0].inputs
    if in_bytes:
        assert reads is not None
        weight = np.concatenate([linear.weight for linear in linears])
        units = np.ascontiguousarray(weight).view(np.int32)
        starts = -reads.zero_point * weight.sum(axis=1, dtype=np.int32)
        scales = np.concatenate([np.float32(reads.scale) * _scale(linear) for linear in linears])
    else:
        weight = np.concatenate([_floats(linear) for linear in linears])
        units = np.ascontiguousarray(weight, np.float32).view(np.int32)
        # Minus zero is a zero too.
        units = np.where(weight == 0, np.int32(0), units)
        starts, scales = np.zeros(len(weight), np.int32), np.ones(len(weight), np.float32)
    pointers, places, values = compress(units)
    return PackedWeight(
        rows=len(units),
        chunks=len(pointers),
        in_bytes=in_bytes,
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
        ends = count + np.cumsum(np.bincount(rows, minlength=len(units)))
        pointers.append(np.concatenate([[count], ends]).astype(np.int32))
        places.append(columns.astype(np.uint8))
        values.append(chunk[rows, columns])
        count += len(rows)
    return np.stack(pointers), np.concatenate(places), np.concatenate(values)


def _scale(linear: Linear) -> Array:
    assert linear.scale is not None
    return linear.scale


def _floats(linear: Linear) -> Array:
    if linear.scale is None:
        return linear.weight
    floats: Array = linear.weight * linear.scale[:, None]
    return floats
