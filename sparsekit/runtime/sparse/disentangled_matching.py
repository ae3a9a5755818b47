"""Finds the attention of a layer that compares tokens with relative positions too (DeBERTa-v2, v3).

    q, k, v = query, key and value, batch and heads as one axis
    scores = q x k * scale
        + GatherElements(q x position keys, rows of each query and key) * scale
        + GatherElements(k x position queries, rows of each key and query), transposed, * scale
    softmax(Where(excluded, lowest, scores)) x v -> heads concatenated

Position keys and queries are constants: a table of embeddings, normalized, through Linear layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from sparsekit.runtime.sparse.attention_matching import (
    HEADS_FIRST,
    AttentionReader,
    FoundAttention,
    Operand,
)
from sparsekit.runtime.sparse.graph import Array, Node, refused
from sparsekit.runtime.sparse.inference import BATCH, LENGTH, Known
from sparsekit.runtime.sparse.reading import described
from sparsekit.runtime.sparse.relative_positions import linear_output
from sparsekit.runtime.sparse.structure import Attention, Positions, Terms
from sparsekit.runtime.sparse.subgraph import SizedTensors, computed

_SWAPPED = [0, 2, 1]
# Scores of this or less have the probability 0 beside others.
_EXCLUDED = -1e30
# The batch and the length for which the graph has to repeat positions; ONNX infers no shapes here.
_PROBED = (3, 5)


@dataclass(frozen=True, eq=False)
class _Product:
    """`left` x `right` transposed * scale; with `rows`, elements of it, gathered along the last
    axis; with `swapped`, those transposed."""

    node: Node
    left: str
    right: str
    scale: float
    rows: str | None
    swapped: bool


class DisentangledReader(AttentionReader):
    """Finds disentangled attention, and what `AttentionReader` does."""

    def attention(self, context: Node) -> FoundAttention:
        """The attention whose heads `context` concatenates."""
        heads = self.graph.producers.get(context.inputs[0])
        split = None if heads is None else self.graph.producers.get(heads.inputs[0])
        if heads is None or heads.op != "Transpose" or split is None or split.op != "Reshape":
            return super().attention(context)
        self.check_axes(heads, HEADS_FIRST)
        matmul = self.expect(split.inputs[0], "MatMul")
        probabilities = self.expect(matmul.inputs[0], "Reshape")
        softmax = self.expect(probabilities.inputs[0], "Softmax")
        if softmax.attributes.get("axis", -1) not in (-1, 3):
            raise refused(softmax, "it is not over the last axis, the keys")
        excluded, summed = self.excluded(softmax)
        products = list(self.products(summed))
        scores = self.content(softmax, products)
        query, key = self.flat_operand(scores.left), self.flat_operand(scores.right)
        value = self.flat_operand(matmul.inputs[1])
        self.check_operands(scores.node, query, key, value)
        count, features = len(query.linear.bias) // query.features, query.features
        merged, square = BATCH * count, (LENGTH, LENGTH)
        flat = (scores.left, scores.right, matmul.inputs[1])
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(flat, (merged, LENGTH, features))
        shapes |= {probabilities.outputs[0]: (merged, *square), excluded: (BATCH, 1, *square)}
        shapes |= {softmax.inputs[0]: (BATCH, count, *square)}
        shapes |= {split.outputs[0]: (BATCH, count, LENGTH, features)}
        repeated: dict[str, Known] = {}
        positions = self.positions(products, repeated)
        attention = Attention(
            query.linear,
            key.linear,
            value.linear,
            features,
            scores.scale,
            (None, None, None, None),
            positions,
        )
        names = (query.heads, key.heads, value.heads)
        terms = Terms(frozenset(), None, excluded)
        return FoundAttention(attention, terms, query.source, names, shapes, repeated)

    def excluded(self, softmax: Node) -> tuple[str, str]:
        """The tensor that says which scores are replaced by the lowest, and the scores."""
        where = self.expect(softmax.inputs[0], "Where")
        condition, lowest, scores = where.inputs
        constant = self.constant(where, lowest)
        self.check_array(where, lowest, constant, ())
        if not np.finfo(np.float32).min <= constant <= _EXCLUDED:
            raise refused(where, f"it replaces scores by {constant}, not by the lowest float32")
        return condition, self.expect(scores, "Reshape").inputs[0]

    def products(self, name: str) -> Iterator[_Product]:
        """The products whose sum is `name`."""
        node = self.graph.producers.get(name)
        if node is not None and node.op in ("Add", "Sum"):
            for each in node.inputs:
                yield from self.products(each)
            return
        name, scale = self.multiple(name)
        node = self.expect(name, "MatMul", "GatherElements", "Transpose")
        swapped = node.op == "Transpose"
        if swapped:
            self.check_axes(node, _SWAPPED)
            name, factor = self.multiple(node.inputs[0])
            node, scale = self.expect(name, "GatherElements"), scale * factor
        rows = None
        if node.op == "GatherElements":
            if node.attributes.get("axis", 0) not in (-1, 2):
                raise refused(node, "it does not gather along the last axis, the positions")
            name, factor = self.multiple(node.inputs[0])
            rows, scale = node.inputs[1], scale * factor
        matmul = self.expect(name, "MatMul")
        (left, first), (right, second) = map(self.multiple, matmul.inputs)
        transpose = self.expect(right, "Transpose")
        self.check_axes(transpose, _SWAPPED)
        right, third = self.multiple(transpose.inputs[0])
        yield _Product(matmul, left, right, scale * first * second * third, rows, swapped)

    def multiple(self, name: str) -> tuple[str, float]:
        """The tensor that `name` is a multiple of, and the factor."""
        node = self.graph.producers.get(name)
        if node is None or node.op not in ("Mul", "Div"):
            return name, 1.0
        for source, other in permutations(node.inputs):
            constant = self.graph.constants.get(other)
            if constant is None or constant.ndim or not constant:
                continue
            if node.op == "Mul" or source == node.inputs[0]:
                inner, factor = self.multiple(source)
                value = float(constant)
                return inner, factor * value if node.op == "Mul" else factor / value
        return name, 1.0

    def content(self, softmax: Node, products: list[_Product]) -> _Product:
        """The product of query and key; refuses others than those of either with positions."""
        content = [each for each in products if each.rows is None]
        to_keys = [each for each in products if each.rows and not each.swapped]
        to_queries = [each for each in products if each.rows and each.swapped]
        if len(content) != 1 or len(to_keys) > 1 or len(to_queries) > 1:
            raise refused(softmax, "it reads more than products of query, key and positions")
        [found] = content
        if any(not np.isclose(each.scale, found.scale, rtol=1e-6) for each in products):
            raise refused(softmax, "the products of query, key and positions have several scales")
        lefts = {each.left for each in to_keys} - {found.left}
        if lefts or {each.left for each in to_queries} - {found.right}:
            raise refused(softmax, "positions are not compared with its query and its key")
        return found

    def positions(self, products: list[_Product], repeated: dict[str, Known]) -> Positions | None:
        """What query and key are compared with besides each other; adds to `repeated`."""
        arrays: dict[bool, tuple[Array, str]] = {}
        for each in products:
            if each.rows is None:
                continue
            keys, rows = self.position_heads(each.right), self.before_repeats(each.rows)
            batch, length = _PROBED
            values = dict(self.graph.constants)
            squares = SizedTensors(self.graph, [rows, each.rows], values).of(batch, length)
            flat = np.broadcast_to(squares[rows], (batch * len(keys), length, length))
            if not np.array_equal(squares[each.rows], flat):
                raise refused(each.node, "rows of its positions differ between texts or heads")
            merged = BATCH * len(keys)
            repeated[each.right] = keys.dtype, (merged, *keys.shape[1:])
            repeated[each.rows] = np.dtype(np.int64), (merged, LENGTH, LENGTH)
            arrays[each.swapped] = keys, rows
        if not arrays:
            return None
        keys_of, queries_of = arrays.get(False, (None, None)), arrays.get(True, (None, None))
        return Positions(keys_of[0], queries_of[0], keys_of[1], queries_of[1])

    def position_heads(self, name: str) -> Array:
        """Keys or queries of positions, [heads, rows, features], which `name` repeats."""
        inner, values = self.before_repeats(name), dict(self.graph.constants)
        # Without quantizers and a norm the exporter has computed them.
        found = values[inner] if inner in values else self.projected_positions(inner, values)
        repeats = self.expect(name, "Expand", "Tile")
        if found.ndim != 3 or not found.size or found.dtype != np.float32:
            raise refused(repeats, f"it repeats positions of {described(found)}")
        repeated = SizedTensors(self.graph, [name], values).of(*_PROBED)[name]
        if not np.array_equal(repeated, np.tile(found, (_PROBED[0], 1, 1))):
            raise refused(repeats, "it does not repeat positions for each text of the batch")
        return found

    def projected_positions(self, name: str, values: dict[str, Array]) -> Array:
        """The output of a Linear layer for all positions, by heads; adds it to `values`."""
        flat = self.expect(name, "Reshape")
        transpose = self.expect(flat.inputs[0], "Transpose")
        heads = self.expect(transpose.inputs[0], "Reshape")
        linear, source = self.linear(heads.inputs[0])
        embeddings = computed(self.graph, source, values)
        if embeddings.shape[-1:] != linear.weight.shape[1:] or embeddings.ndim != 3:
            raise refused(heads, f"it reads positions of {described(embeddings)}")
        values[heads.inputs[0]] = linear_output(linear, embeddings)
        return computed(self.graph, name, values)

    def before_repeats(self, name: str) -> str:
        """The tensor that is repeated along the batch."""
        node = self.graph.producers.get(name)
        while node is not None and node.op in ("Expand", "Tile"):
            name = node.inputs[0]
            node = self.graph.producers.get(name)
        return name

    def flat_operand(self, name: str) -> Operand:
        """Query, key or value [batch * heads, length, features]."""
        flat = self.expect(name, "Reshape")
        transpose = self.expect(flat.inputs[0], "Transpose")
        self.check_axes(transpose, HEADS_FIRST)
        linear, read, features = self.heads(transpose.inputs[0])
        return Operand(linear, read, features, None, transpose.inputs[0], None)
