"""The embeddings of an encoder: rows of tables, summed and normalized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from sparsekit.errors import UserError
from sparsekit.runtime.sparse.graph import Array, Graph
from sparsekit.runtime.sparse.structure import Norm

MOST_TABLES = 4


@dataclass(frozen=True, eq=False)
class Table:
    """`rows` [rows, features], whose values are (row - zero_point) * scale.

    ids: name of the tensor of row indices; name: name of the table, for messages.
    """

    rows: Array
    scale: float
    zero_point: float
    ids: str
    name: str


@dataclass(frozen=True, eq=False)
class Embedding:
    """The sum of rows of tables, normalized.

    factors: name of the tensor [batch, length, 1] that the result is multiplied by, if any.
    """

    tables: Sequence[Table]
    norm: Norm
    factors: str | None


def find_embedding(graph: Graph, source: str) -> Embedding | None:
    """The embedding whose output is `source`; None for another form, which numpy computes."""
    node, factors = graph.producers.get(source), None
    for normalized, factor in permutations(node.inputs) if node and node.op == "Mul" else ():
        found = graph.producers.get(normalized)
        if found is not None and found.op == "LayerNormalization":
            node, factors = found, factor
    if node is None or node.op != "LayerNormalization":
        return None
    tables = _tables(graph, node.inputs[0])
    constants = [graph.constants.get(name) for name in node.inputs[1:]]
    weight = constants[0]
    bias = constants[1] if len(constants) > 1 else np.zeros_like(weight)
    if tables is None or len(tables) > MOST_TABLES or weight is None or bias is None:
        return None
    if node.attributes.get("axis", -1) not in (-1, 2):
        return None
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    return Embedding(tables, Norm(weight, bias, epsilon, node.name), factors)


def _tables(graph: Graph, name: str) -> list[Table] | None:
    """The tables whose rows are summed to `name`, in the order of the additions."""
    node = graph.producers.get(name)
    if node is None:
        return None
    if node.op in ("Add", "Sum") and len(node.inputs) == 2:
        first, second = (_tables(graph, part) for part in node.inputs)
        # The kernel sums from left to right.
        return None if first is None or second is None or len(second) > 1 else [*first, *second]
    scale, zero_point = 1.0, 0.0
    if node.op == "DequantizeLinear":
        parameters = [graph.constants.get(part) for part in node.inputs[1:]]
        if len(parameters) != 2 or any(p is None or p.ndim for p in parameters):
            return None
        scale, zero_point = (float(parameter) for parameter in parameters if parameter is not None)
        node = graph.producers.get(node.inputs[0])
    if node is None or node.op != "Gather" or node.attributes.get("axis", 0) != 0:
        return None
    rows = graph.constants.get(node.inputs[0])
    known = rows is not None and rows.ndim == 2 and rows.dtype in (np.float32, np.uint8, np.int8)
    if rows is None or not known:
        return None
    return [Table(rows, scale, zero_point, node.inputs[1], node.inputs[0])]


def checked_factors(name: str, factors: Array, batch: int, length: int) -> Array:
    """`factors` as contiguous float32 [batch, length]; raises UserError for another shape."""
    if factors.dtype != np.float32 or factors.shape not in ((batch, length, 1), (1, length, 1)):
        raise UserError(
            f"runtime=sparse: {name!r} is {factors.dtype} {list(factors.shape)}, expected float32 "
            f"[{batch}, {length}, 1]; the graph was changed: export the run again"
        )
    return np.ascontiguousarray(np.broadcast_to(factors[..., 0], (batch, length)))


def checked_ids(table: Table, ids: Array, batch: int, length: int) -> Array:
    """`ids` as contiguous int64 [batch, length].

    Raises UserError for a row that the table does not have, and for ids of another shape.
    """
    if ids.dtype != np.int64 or ids.shape not in ((batch, length), (1, length)):
        raise UserError(
            f"{table.ids} has shape {list(ids.shape)} for {batch} sequences of {length} tokens: "
            f"the model's table {table.name!r} has {len(table.rows)} rows; shorten the texts to "
            "the model_max_length of the deployment's tokenizer"
        )
    if ids.min() < 0 or ids.max() >= len(table.rows):
        wrong = int(ids.max() if ids.max() >= len(table.rows) else ids.min())
        raise UserError(
            f"{table.ids} holds {wrong}, the model's table has rows 0 to {len(table.rows) - 1}; "
            "encode the text with the deployment's own tokenizer"
        )
    return np.ascontiguousarray(np.broadcast_to(ids, (batch, length)), np.int64)
