"""Weights of Linear layers without their zeros, in the layouts that the C kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from sparsekit.runtime.sparse.graph import Array
from sparsekit.runtime.sparse.pairs import paired
from sparsekit.runtime.sparse.structure import Linear, Quantizer, Terms


class Format(IntEnum):
    """How activations, and the weights that they are multiplied by, are stored.

    TILES and MASKED_TILES are weights whose inputs are PACKED. See csrc/encoder/tensors.h.
    """

    FLOAT32 = 0
    ROUNDED = 1
    PACKED = 2
    PLANES = 3
    TILES = 4
    MASKED_TILES = 5


# As in csrc/encoder/sparse_matmul.h: 32-bit units per chunk of a row; inputs per chunk with PLANES.
CHUNK_UNITS = 96
CHUNK_INPUTS = 768
# The time of a step of PLANES relative to a unit of PACKED: for whole tiles 1.5 on a processor with
# one 64-byte load a cycle, more with two loads and one shuffle.
STEP_COST = 2.5
# As in csrc/encoder/tile_matmul.h: the outputs and the inputs of a tile, and the outputs that are
# multiplied together.
TILE_ROWS, TILE_INPUTS, BLOCK_ROWS = 16, 64, 32
# The time of a unit of TILES or MASKED_TILES, zeros included, relative to a unit of PACKED: as long
# as PLANES takes at 93 % zeros. On an Intel Xeon (Emerald Rapids) masked tiles took 0.82 of that
# time at 90 % and 1.05 at 95 %, of whole models with 128 tokens: benchmarks/tiles.py.
TILE_COST = 0.18


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """The arrays of the C structure `weight`; see csrc/encoder/sparse_matmul.h."""

    rows: int
    chunks: int
    format: Format
    pointers: Array
    indices: Array
    values: Array
    initial_sums: Array
    scales: Array
    biases: Array


def fastest_format(
    linears: Sequence[Linear], tiles: bool = False, max_pair: int | None = None
) -> Format:
    """The fastest format for layers with the same input, on a CPU that multiplies int8.

    tiles: whether the CPU has int8 tiles too, which take layers of whole tiles only.
    max_pair: see `steps`; PLANES alone can be arranged in such pairs.

    FLOAT32 for layers that are not quantized.
    """
    if not all(_is_int8(linear) for linear in linears):
        return Format.FLOAT32
    if max_pair is not None:
        return Format.PLANES
    nonzeros = sum(np.count_nonzero(linear.weight) for linear in linears)
    units = sum(np.count_nonzero(_units(linear.weight)) for linear in linears)
    size = sum(linear.weight.size for linear in linears)
    costs = {Format.PACKED: units, Format.PLANES: STEP_COST * nonzeros / 4}
    if tiles and size and all(_has_whole(linear.weight, TILE_ROWS) for linear in linears):
        # Below that, the masks cost more than they save.
        masked = 2 * nonzeros < size and all(_has_whole(x.weight, BLOCK_ROWS) for x in linears)
        costs[Format.MASKED_TILES if masked else Format.TILES] = TILE_COST * size / 4
    return min(costs, key=lambda format: costs[format])


def operand_formats(
    operands: Sequence[Quantizer | None], terms: Terms | None, int8: bool
) -> list[Format]:
    """The formats of query, key, probabilities and value: int8 where all of them can be.

    Rotated ones are multiplied as float32: the rotation follows the projection, which would have
    to store bytes. int8: whether the kernels multiply bytes.
    """
    types = [None if x is None else x.dtype.type for x in operands]
    probabilities = operands[2]
    # The instruction multiplies unsigned by signed bytes. A zero point of the probabilities would
    # have to be subtracted from every sum.
    int8 = (
        int8
        and (terms is None or terms.rotation is None)
        and types == [np.uint8, np.int8, np.uint8, np.int8]
    )
    if int8 and probabilities is not None and probabilities.zero_point == 0:
        return [Format.PACKED, Format.PACKED, Format.PACKED, Format.PLANES]
    return [Format.ROUNDED] * 4


def attention_has_tiles(formats: Sequence[Format], features: int, distances: bool) -> bool:
    """Whether a CPU with AMX multiplies the operands of a head in tiles.

    formats: those of `operand_formats`; features: of a head; distances: whether scores have terms
    of distances, which are computed with those of query and key. Tiles must be whole: in int8 the
    features are the rows of a tile of values, in float32 what one instruction multiplies too. On an
    Intel Xeon (Emerald Rapids), beside a training, whole models with int8 attention and 512 tokens
    took 0.89 of the time, with 128 0.97, and with fewer as long as without tiles.
    """
    if formats[0] == Format.PACKED:
        return features % TILE_ROWS == 0
    return not distances and features % BLOCK_ROWS == 0


def pack(linears: Sequence[Linear], format: Format, max_pair: int | None = None) -> PackedWeight:
    """The weights of Linear layers with the same input, concatenated along their outputs.

    max_pair: see `steps`.
    """
    biases = np.concatenate([linear.bias for linear in linears]).astype(np.float32)
    if format == Format.FLOAT32:
        weight = np.concatenate([float_weight(linear) for linear in linears])
        initial_sums = np.zeros(len(weight), np.int32)
        scales = np.ones(len(weight), np.float32)
    else:
        quantizer = linears[0].inputs
        assert quantizer is not None
        weight = np.concatenate([linear.weight for linear in linears])
        initial_sums = -quantizer.zero_point * weight.sum(axis=1, dtype=np.int32)
        scale = np.float32(quantizer.scale)
        scales = np.concatenate([scale * _scale(linear) for linear in linears])
    if format == Format.TILES:
        pointers, indices, values = np.empty(0, np.int32), np.empty(0, np.uint8), tiles_of(weight)
        chunks = weight.shape[1] // TILE_INPUTS
    elif format == Format.MASKED_TILES:
        pointers, indices, values = masked_tiles(weight)
        chunks = weight.shape[1] // TILE_INPUTS
    else:
        planes = format == Format.PLANES
        layout = steps(weight, max_pair) if planes else compress(_units(weight))
        pointers, indices, values = layout
        chunks = len(pointers)
    return PackedWeight(
        rows=len(weight),
        chunks=chunks,
        format=format,
        pointers=pointers,
        indices=indices,
        values=values,
        initial_sums=initial_sums,
        scales=scales.astype(np.float32),
        biases=biases,
    )


def compress(units: Array) -> tuple[Array, Array, Array]:
    """Pointers [chunks, rows + 1], and the indices and values of the nonzero units [rows, n].

    >>> pointers, indices, values = compress(np.array([[0, 7], [0, 0], [8, 9]], np.int32))
    >>> pointers.tolist(), indices.tolist(), values.tolist()
    ([[0, 1, 1, 3]], [1, 0, 1], [7, 8, 9])
    """
    pointers, indices, values, count = [], [], [], 0
    # A layer without inputs has one chunk without units, so that its sums are initialized.
    for start in range(0, max(units.shape[1], 1), CHUNK_UNITS):
        chunk = units[:, start : start + CHUNK_UNITS]
        rows, columns = np.nonzero(chunk)
        pointers.append(count + _ends(np.bincount(rows, minlength=len(units))))
        indices.append(columns.astype(np.uint8))
        values.append(chunk[rows, columns])
        count += len(rows)
    return np.stack(pointers), np.concatenate(indices), np.concatenate(values)


def steps(weight: Array, max_pair: int | None = None) -> tuple[Array, Array, Array]:
    """Pointers [chunks, rows + 1], and for each step four indices and four int8 as one int32.

    A step has four consecutive nonzero values of a row's chunk; the last one is padded with zeros.

    max_pair: of each step, the magnitudes of the first two values and those of the last two add up
        to this at most, and a value that goes with no other one is paired with zero.

    >>> pointers, indices, values = steps(np.array([[0, 7, 1, 2, 3, 4], [0] * 6], np.int8))
    >>> pointers.tolist(), indices.tolist(), values.view(np.int8).reshape(-1, 4).tolist()
    ([[0, 2, 2]], [[1, 2, 3, 4], [5, 0, 0, 0]], [[7, 1, 2, 3], [4, 0, 0, 0]])
    >>> _, indices, values = steps(np.array([[0, 7, 1, 6, 3]], np.int8), max_pair=8)
    >>> indices.tolist(), values.view(np.int8).reshape(-1, 4).tolist()
    ([[1, 0, 3, 2], [4, 0, 0, 0]], [[7, 0, 6, 1], [3, 0, 0, 0]])
    """
    pointers, indices, values, count = [], [], [], 0
    for start in range(0, weight.shape[1], CHUNK_INPUTS):
        chunk = np.ascontiguousarray(weight[:, start : start + CHUNK_INPUTS])
        # Faster than np.nonzero of both axes.
        rows, columns = np.divmod(np.flatnonzero(chunk != 0), chunk.shape[1])
        counts = np.bincount(rows, minlength=len(weight))
        if max_pair is None:
            places = np.arange(len(rows)) - _ends(counts)[rows]
        else:
            columns, places, counts = paired(chunk, rows, columns, counts, max_pair)
        # Values follow each other from the beginning of their row's first step.
        ends = _ends((counts + 3) // 4)
        positions = 4 * ends[rows] + places
        step_indices = np.zeros(4 * ends[-1], np.uint16)
        step_values = np.zeros(4 * ends[-1], np.int8)
        step_indices[positions], step_values[positions] = columns, chunk[rows, columns]
        pointers.append(count + ends)
        indices.append(step_indices.reshape(-1, 4))
        values.append(step_values.view(np.int32))
        count += ends[-1]
    return np.stack(pointers), np.concatenate(indices), np.concatenate(values)


def tiles_of(weight: Array) -> Array:
    """An int8 weight as tiles [outputs / 16, inputs / 64, 16 outputs, 16 units of four inputs].

    A unit is one int32. Zeros are kept.
    """
    rows, inputs = weight.shape
    units = _units(weight).reshape(rows // TILE_ROWS, TILE_ROWS, inputs // TILE_INPUTS, -1)
    return np.ascontiguousarray(units.transpose(0, 2, 1, 3))


def masked_tiles(weight: Array) -> tuple[Array, Array, Array]:
    """An int8 weight as tiles without their zeros: pointers [outputs / 32], masks, and values.

    The rows of tiles are [outputs / 32, inputs / 64, 2, 16]. Each has a mask of 64 bits, the first
    input in the lowest one, and as many values. Those of 32 outputs begin at their pointer.

    >>> pointers, masks, values = masked_tiles(np.eye(64, dtype=np.int8))
    >>> pointers.tolist(), masks.shape, values.size == 64 + TILE_INPUTS
    ([0, 32], (2, 1, 2, 16), True)
    >>> [f"{mask:#x}" for mask in masks[1, 0, 0, :2].tolist()]
    ['0x100000000', '0x200000000']
    """
    rows, inputs = weight.shape
    tiles = weight.reshape(rows // BLOCK_ROWS, 2, TILE_ROWS, inputs // TILE_INPUTS, TILE_INPUTS)
    tiles = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2, 4))
    kept = tiles != 0
    masks = np.packbits(kept, axis=-1, bitorder="little").view("<u8")[..., 0]
    counts = kept.sum(axis=(1, 2, 3, 4), dtype=np.int32)
    # The kernels read a vector from the last value on.
    values = np.concatenate([tiles[kept], np.zeros(TILE_INPUTS, np.int8)])
    return _ends(counts)[:-1], masks, values


def _ends(counts: Array) -> Array:
    """The cumulative sum of counts, beginning with 0."""
    ends: Array = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return ends


def _is_int8(linear: Linear) -> bool:
    """Whether the input is quantized to uint8 and the weight to int8."""
    return (
        linear.scale is not None and linear.inputs is not None and linear.inputs.dtype == np.uint8
    )


def _has_whole(weight: Array, rows: int) -> bool:
    """Whether a weight consists of tiles of so many rows."""
    whole: bool = weight.shape[0] % rows == 0 and weight.shape[1] % TILE_INPUTS == 0
    return whole


def _units(weight: Array) -> Array:
    """A weight as units of 32 bits: one float32 or four int8."""
    units = np.ascontiguousarray(weight).view(np.int32)
    if weight.dtype == np.int8:
        return units
    # Negative zero is a zero too.
    return np.where(weight == 0, np.int32(0), units)


def _scale(linear: Linear) -> Array:
    assert linear.scale is not None
    return linear.scale


def float_weight(linear: Linear) -> Array:
    """The weight [out, in] as float32."""
    if linear.scale is None:
        return linear.weight.astype(np.float32)
    floats: Array = (linear.weight * linear.scale[:, None]).astype(np.float32)
    return floats
