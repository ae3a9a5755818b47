"""Products of float32 matrices around the encoder, by a kernel in C."""

from __future__ import annotations

from ctypes import c_long

import numpy as np

from sparsekit.runtime.sparse import operators
from sparsekit.runtime.sparse.c_structures import address
from sparsekit.runtime.sparse.graph import Array
from sparsekit.runtime.sparse.native import compiled

# The kernel takes a multiple of so many columns.
_COLUMNS = 16


def matmul(a: Array, b: Array) -> Array:
    """`a @ b`, by a kernel where `a` has a row for each token and `b` is a matrix.

    Heads that multiply every token by a matrix, as EuroBERT's, took a third of the time of a model
    of 6 layers in `operators.matmul`, which is as fast for the first tokens alone. Both compute in
    float32 on this thread alone, and each row by itself.
    """
    if a.ndim < 3 or b.ndim != 2 or not a.size or not a.dtype == b.dtype == np.float32:
        return operators.matmul(a, b)
    inputs, columns = b.shape
    rows = a.size // a.shape[-1]
    if a.shape[-1] != inputs:
        raise ValueError(f"the first has {a.shape[-1]} columns, the second {inputs} rows")
    added = -columns % _COLUMNS
    padded = np.pad(b, ((0, 0), (0, added))) if added else b
    a, padded = np.ascontiguousarray(a), np.ascontiguousarray(padded)
    out = np.empty((*a.shape[:-1], columns + added), np.float32)
    sizes = (c_long(rows), c_long(inputs), c_long(columns + added))
    compiled().multiply_dense(address(a), address(padded), *sizes, address(out))
    return out[..., :columns]
