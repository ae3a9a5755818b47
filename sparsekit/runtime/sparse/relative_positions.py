"""Keys and queries of relative positions, stored by distance for the kernels.

A model has a row of them for each bucket of distances, and the graph computes which row belongs to
a query and a key. Where that depends on their distance alone, rows are copied to a table that has
one for each distance: neighbouring queries then read neighbouring elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError
from sparsekit.runtime.sparse.graph import Array, Graph
from sparsekit.runtime.sparse.operators import dequantize, quantize
from sparsekit.runtime.sparse.structure import Linear, Positions
from sparsekit.runtime.sparse.subgraph import SizedTensors
from sparsekit.runtime.sparse.weights import float_weight

# Tables begin with distances in texts of so many tokens, and grow with longer texts.
_FIRST_LENGTH = 128
# Lengths are padded to this, a multiple of the tokens in a vector.
_MULTIPLE = 16


@dataclass(frozen=True, eq=False)
class Distances:
    """keys, queries: float32 [heads * head_features, distances], contiguous; element `center` of a
    row belongs to the distance 0 of query and key, the next one to a query one token further on."""

    keys: npt.NDArray[np.float32]
    queries: npt.NDArray[np.float32]
    center: int


class DistanceTables:
    """Tables of the layers with relative positions, which grow with the longest text."""

    def __init__(self, graph: Graph, positions: Sequence[Positions]) -> None:
        """Raises UserError where rows depend on more than distances."""
        self._positions = positions
        # Those for each query and key, and those for each key and query.
        self._names = [
            {name for each in positions if (name := each.key_rows)},
            {name for each in positions if (name := each.query_rows)},
        ]
        names = sorted(set.union(*self._names))
        self._tensors = SizedTensors(graph, names, graph.constants)
        self._rows = self._rows_of(_MULTIPLE)
        self._length, self._tables = 0, list[Distances]()
        if positions:
            self.of(_FIRST_LENGTH)

    def of(self, tokens: int) -> list[Distances]:
        """A table for each of `positions`, for texts of up to `tokens` tokens."""
        if tokens > self._length and self._positions:
            length = max(-(-tokens // _MULTIPLE) * _MULTIPLE, 2 * self._length)
            rows = self._rows_of(length)
            for key, known in self._rows.items():
                more = (len(rows[key]) - len(known)) // 2
                if not np.array_equal(rows[key][more : more + len(known)], known):
                    raise _refused(key[0], "depend on the length of the text")
            self._rows, self._length = rows, length
            self._tables = [self._table(each) for each in self._positions]
        return self._tables

    def _rows_of(self, length: int) -> dict[tuple[str, bool], Array]:
        """The row of each distance, from 1 - length to length - 1 of query and key.

        By the name of the tensor, and whether it is for each key and query.
        """
        tensors, (keys, queries) = self._tensors.of(1, length), self._names
        rows = {(name, False): rows_of_distances(name, tensors[name]) for name in keys}
        return rows | {
            (name, True): rows_of_distances(name, tensors[name].swapaxes(-1, -2))
            for name in queries
        }

    def _table(self, positions: Positions) -> Distances:
        keys = self._by_distance(positions.keys, positions.key_rows, False)
        queries = self._by_distance(positions.queries, positions.query_rows, True)
        assert keys is not None or queries is not None
        zeros = np.zeros_like(queries if keys is None else keys)
        return Distances(
            zeros if keys is None else keys, zeros if queries is None else queries, self._length - 1
        )

    def _by_distance(
        self, array: Array | None, rows: str | None, of_queries: bool
    ) -> npt.NDArray[np.float32] | None:
        """`array` [heads, rows, features] as [heads * features, distances]."""
        if array is None or rows is None:
            return None
        index = self._rows[rows, of_queries]
        if index.min() < 0 or index.max() >= array.shape[1]:
            raise _refused(rows, f"are not among the {array.shape[1]} that the model has")
        flat = array.transpose(0, 2, 1).reshape(-1, array.shape[1])
        # An odd number of cache lines, so that rows do not share few sets of the cache.
        table = np.zeros((len(flat), 2 * self._length + _MULTIPLE), np.float32)
        table[:, : len(index)] = flat[:, index]
        return table


def rows_of_distances(name: str, rows: Array) -> Array:
    """The row of each distance, from 1 - length on, from those of each query and key [.., length,
    length]; raises UserError where pairs at the same distance have different rows.

    >>> rows_of_distances("rows", np.array([[[1, 0], [2, 1]]])).tolist()
    [0, 1, 2]
    """
    length = rows.shape[-1] if rows.ndim >= 2 else 0
    if rows.size != length * length or not length or rows.dtype != np.int64:
        raise _refused(name, f"have shape {list(rows.shape)}")
    square = rows.reshape(length, length)
    found: Array = np.concatenate([square[0, :0:-1], square[:, 0]])
    distances = np.arange(length)[:, None] - np.arange(length)
    if not np.array_equal(square, found[distances + length - 1]):
        raise _refused(name, "depend on more than the distance of query and key")
    return found


def linear_output(linear: Linear, x: Array) -> Array:
    """The output of a Linear layer for `x` [..., in]."""
    if linear.inputs is not None:
        scale = np.asarray(linear.inputs.scale, np.float32)
        zero_point = np.asarray(linear.inputs.zero_point, linear.inputs.dtype)
        x = dequantize(quantize(x, scale, zero_point), scale, zero_point)
    # Once for each layer, at load: BLAS is faster by far, and its threads disturb no request.
    output: Array = x @ float_weight(linear).T + linear.bias
    return output


def _refused(name: str, reason: str) -> UserError:
    return UserError(
        f"runtime=sparse cannot run this graph: the rows {name!r} of relative positions {reason}; "
        "run this model with runtime=onnxruntime"
    )
