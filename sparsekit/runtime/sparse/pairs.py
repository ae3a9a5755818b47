"""The order of int8 weights in which no two of a pair are too large together.

AVX2 adds the products of two bytes with two weights as an int16, which saturates. Any two inputs of
an output may make a pair, so the largest weights are paired with the smallest.
"""

from __future__ import annotations

import numpy as np

from sparsekit.runtime.sparse.graph import Array

# So that the arrays stay in the cache: three times as fast.
ROWS_AT_ONCE = 128


def paired(
    weight: Array, rows: Array, columns: Array, counts: Array, limit: int
) -> tuple[Array, Array, Array]:
    """The columns of the nonzero values in another order, their places, and each row's places.

    weight: int8 [out, in]. rows, columns: those of its nonzero values, row by row; counts: how many
    each row has. limit: the largest sum of two magnitudes, an even number.

    A row's places 0 and 1 are a pair, 2 and 3 the next one, and so on. The largest magnitudes stay
    alone, as few as possible; of the others the largest goes with the smallest, the next largest
    with the next smallest. No other way needs fewer pairs: of two values, the smaller one goes with
    all that the larger one goes with.
    """
    ends = np.concatenate([[0], np.cumsum(counts)])
    blocks = []
    # At least one, so that a weight without rows has arrays too.
    for first in range(0, max(len(weight), 1), ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, len(weight))
        values = slice(ends[first], ends[last])
        block = (weight[first:last], rows[values] - first, columns[values], counts[first:last])
        blocks.append(_paired(*block, limit))
    in_order, places, of_rows = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return in_order, places, of_rows


def _paired(
    weight: Array, rows: Array, columns: Array, counts: Array, limit: int
) -> tuple[Array, Array, Array]:
    magnitudes = np.abs(weight[rows, columns].astype(np.int32))
    # By row, then from the largest to the smallest, then by column.
    keys = np.sort((rows << 24) + ((255 - magnitudes) << 16) + columns)
    columns, magnitudes = keys & 0xFFFF, 255 - ((keys >> 16) & 0xFF)
    histogram = np.bincount((rows << 8) + magnitudes, minlength=len(weight) << 8)
    up_to = histogram.reshape(len(weight), 256).cumsum(axis=1)
    rank = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    # The value of rank counts - 1 - i, where it is small, goes with those whose rank is at least
    # the number of values that are too large for it; its own partner has the rank alone + i.
    small = magnitudes <= limit // 2
    too_large = counts[rows] - up_to[rows, limit - np.minimum(magnitudes, limit)]
    needed = too_large - (counts[rows] - 1 - rank)
    alone = np.maximum(counts - 2 * up_to[:, limit // 2], 0)
    np.maximum.at(alone, rows[small], needed[small])
    partner = counts[rows] - 1 - (rank - alone[rows])
    pair = np.where(rank < alone[rows], rank, np.minimum(rank, partner))
    return columns, 2 * pair + (rank > partner), 2 * (alone + (counts - alone + 1) // 2)
