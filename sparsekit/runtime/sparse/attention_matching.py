"""Finds the attention of a layer.

    x -> Linear (query, key, value) -> heads -> query and key rotated, if at all
    softmax(query x key * scale + terms) x value -> heads concatenated

Query, key and value may be three Linear layers, or the thirds of one. Several heads of the query
may share one of key and value.
"""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from sparsekit.runtime.sparse.graph import Array, Node, refused
from sparsekit.runtime.sparse.inference import BATCH, LENGTH, Known, Shapes
from sparsekit.runtime.sparse.reading import GraphReader, described
from sparsekit.runtime.sparse.structure import Attention, Linear, Quantizer, Terms

HEADS_FIRST, _TRANSPOSED, _SWAPPED = [0, 2, 1, 3], [0, 2, 3, 1], [0, 1, 3, 2]


@dataclass(frozen=True, eq=False)
class FoundAttention:
    """An attention, and names of tensors of the graph.

    source: the input of query, key and value; heads: those of query, key and value [batch, length,
    heads, head_features] which have as many heads as the query; shapes, repeated: as of Encoder.
    """

    attention: Attention
    terms: Terms
    source: str
    heads: tuple[str, ...]
    shapes: Shapes = field(default_factory=dict)
    repeated: dict[str, Known] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Operand:
    """Query, key or value: its Linear layer, which reads `source`, and its heads.

    Where heads are repeated, the layer has their rows as often; shapes: of the tensors before and
    after that.
    """

    linear: Linear
    source: str
    features: int
    quantizer: Quantizer | None
    heads: str
    rotation: tuple[str, str] | None
    shapes: Shapes = field(default_factory=dict)


class AttentionReader(GraphReader):
    """Finds attention by how its nodes are connected, whatever their names."""

    def attention(self, context: Node) -> FoundAttention:
        """The attention whose heads `context` concatenates."""
        sizes = self.graph.constants.get(context.inputs[1])
        if sizes is not None and sizes.ndim != 1:
            raise refused(context, f"its sizes are {described(sizes)}, expected one dimension")
        heads = self.expect(context.inputs[0], "Transpose")
        self.check_axes(heads, HEADS_FIRST)
        matmul = self.expect(heads.inputs[0], "MatMul")
        probabilities, quantizer = self.unquantized(matmul.inputs[0])
        softmax = self.expect(probabilities, "Softmax")
        if softmax.attributes.get("axis", -1) not in (-1, 3):
            raise refused(softmax, "it is not over the last axis, the keys")
        scores, scale, added = self.scores(softmax)
        query = self.operand(scores.inputs[0], transposed=False)
        width = len(query.linear.bias)
        key = self.operand(scores.inputs[1], transposed=True, width=width)
        value = self.operand(matmul.inputs[1], transposed=False, width=width)
        self.check_operands(scores, query, key, value)
        if query.rotation != key.rotation or value.rotation:
            raise refused(scores, "query and key are not rotated alike, or the values are rotated")
        attention = Attention(
            query.linear,
            key.linear,
            value.linear,
            query.features,
            scale,
            (query.quantizer, key.quantizer, quantizer, value.quantizer),
        )
        operands = (query, key, value)
        names = tuple(each.heads for each in operands if not each.shapes)
        shapes = dict(ChainMap(*[dict(each.shapes) for each in operands]))
        terms = Terms(added, query.rotation)
        return FoundAttention(attention, terms, query.source, names, shapes)

    def check_operands(self, scores: Node, query: Operand, key: Operand, value: Operand) -> None:
        """Refuse operands that the kernels cannot project from one input."""
        if len({(x.source, x.features) for x in (query, key, value)}) != 1:
            raise refused(scores, "query, key and value have different inputs or head sizes")
        if len({(x.linear.inputs, x.linear.scale is None) for x in (query, key)}) != 1:
            raise refused(scores, "query and key are quantized differently")

    def scores(self, softmax: Node) -> tuple[Node, float, frozenset[str]]:
        """The matmul of query and key, its scale, and the tensors that are added to it."""
        added: set[str] = set()
        name = softmax.inputs[0]
        while not (found := self.scaled(name)):
            node = self.graph.producers.get(name)
            if node is None or node.op not in ("Add", "Sum") or len(node.inputs) != 2:
                raise refused(softmax, "it reads no product of query and key, scaled by a constant")
            first, second = node.inputs
            name, term = (first, second) if self.leads_to_scores(first) else (second, first)
            if term in added:
                raise refused(softmax, f"{term!r} is added to its scores twice")
            added.add(term)
        if not added:
            raise refused(softmax, "no mask is added to its scores")
        return *found, frozenset(added)

    def leads_to_scores(self, name: str) -> bool:
        """Whether `name` is the scaled matmul, or a sum of it with other tensors."""
        if self.scaled(name):
            return True
        node = self.graph.producers.get(name)
        return (
            node is not None
            and node.op in ("Add", "Sum")
            and any(self.leads_to_scores(each) for each in node.inputs)
        )

    def scaled(self, name: str) -> tuple[Node, float] | None:
        """The matmul that `name` is a multiple of, and the factor."""
        node = self.graph.producers.get(name)
        if node is None or node.op == "MatMul":
            return None if node is None else (node, 1.0)
        for scores, factor in permutations(node.inputs) if node.op in ("Mul", "Div") else ():
            matmul = self.graph.producers.get(scores)
            constant = self.graph.constants.get(factor)
            if matmul is not None and matmul.op == "MatMul" and constant is not None:
                self.check_array(node, factor, constant, ())
                if node.op == "Mul":
                    return matmul, float(constant)
                if scores == node.inputs[0] and constant:
                    return matmul, 1 / float(constant)
        return None

    def operand(self, name: str, transposed: bool, width: int = 0) -> Operand:
        """The operand `name` of a matmul: [batch, heads, length, features], or transposed.

        width: the features of all heads, where each may be repeated to make up so many.
        """
        source, quantizer = self.unquantized(name)
        rotation, half, axes = None, 0, _TRANSPOSED if transposed else HEADS_FIRST
        transpose = self.expect(source, "Transpose", "Add", "Reshape")
        if transposed and list(transpose.attributes.get("perm", [])) == _SWAPPED:
            transpose, axes = self.expect(transpose.inputs[0], "Add", "Reshape"), HEADS_FIRST
        joined, times = transpose, 0
        if transpose.op == "Reshape":
            repeated, times = self.repeated(transpose)
            transpose = self.expect(repeated, "Transpose", "Add")
        if transpose.op == "Add":
            rotated = transpose
            source, rotation, half = self.rotated(rotated)
            axes = HEADS_FIRST
            transpose = self.expect(source, "Transpose")
        self.check_axes(transpose, axes)
        linear, read, features = self.heads(transpose.inputs[0])
        if rotation and 2 * half != features:
            raise refused(rotated, f"it does not rotate the halves of {features} features")
        shapes: Shapes = {}
        if times:
            count = len(linear.bias) // features
            if count * times * features != width:
                raise refused(joined, f"its heads do not have the query's {width} features")
            shapes = {
                transpose.inputs[0]: (BATCH, LENGTH, count, features),
                joined.outputs[0]: (BATCH, count * times, LENGTH, features),
            }
            linear = _repeated(linear, features, times)
        return Operand(linear, read, features, quantizer, transpose.inputs[0], rotation, shapes)

    def repeated(self, joined: Node) -> tuple[str, int]:
        """The heads of which `joined` has each several times in turn, and how often.

        As where several heads of the query share a key and a value (arXiv:2305.13245).
        """
        expand = self.expect(joined.inputs[0], "Expand")
        unsqueeze = self.expect(expand.inputs[0], "Unsqueeze")
        sizes = self.sizes(expand)
        axes = self.constant(unsqueeze, unsqueeze.inputs[1]).reshape(-1).tolist()
        if axes != [2] or len(sizes) != 5 or sizes[2] < 1:
            raise refused(expand, "it does not repeat each head of key or value")
        return unsqueeze.inputs[0], sizes[2]

    def rotated(self, node: Node) -> tuple[str, tuple[str, str], int]:
        """What `node` rotates, x * cosines + (-second half of x, first half) * sines; both of them,
        and the features of a half."""
        for plain, turned in permutations(map(self.graph.producers.get, node.inputs)):
            if plain is None or turned is None or {plain.op, turned.op} != {"Mul"}:
                continue
            for (x, cosines), (halves, sines) in (
                (first, second)
                for first in permutations(plain.inputs)
                for second in permutations(turned.inputs)
            ):
                if half := self.half_turn(halves, x):
                    return x, (cosines, sines), half
        raise refused(node, "it does not rotate the halves of each head")

    def half_turn(self, name: str, x: str) -> int:
        """The features of a half where `name` concatenates the negated second half of x and its
        first half; else 0."""
        node = self.graph.producers.get(name)
        if node is None or node.op != "Concat" or node.attributes.get("axis") not in (-1, 3):
            return 0
        if len(node.inputs) != 2:
            return 0
        negated, front = map(self.graph.producers.get, node.inputs)
        if negated is None or negated.op != "Neg" or front is None:
            return 0
        back = self.graph.producers.get(negated.inputs[0])
        if back is None or {back.op, front.op} != {"Slice"}:
            return 0
        for part in (front, back):
            if part.inputs[0] != x or self.sliced_axes(part) not in ([-1], [3]):
                return 0
        (first, half), (middle, end) = self.bounds(front), self.bounds(back)
        return half if first == 0 and half == middle and end >= 2 * half else 0

    def sliced_axes(self, node: Node) -> list[int]:
        """The axes of a Slice, which has to name them."""
        if len(node.inputs) < 4:
            raise refused(node, "it does not name its axis")
        axes = self.constant(node, node.inputs[3])
        return [int(axis) for axis in axes.reshape(-1)]

    def bounds(self, node: Node) -> tuple[int, int]:
        """The first index of a Slice along its only axis, and that after its last."""
        start, end = (self.constant(node, name) for name in node.inputs[1:3])
        if start.shape != (1,) or end.shape != (1,):
            raise refused(node, "it slices several axes")
        if len(node.inputs) > 4 and (self.constant(node, node.inputs[4]) != 1).any():
            raise refused(node, "it does not take each index")
        return int(start.item()), int(end.item())

    def heads(self, name: str) -> tuple[Linear, str, int]:
        """The Linear layer with the heads `name` [batch, length, heads, features], its input, and
        the features of a head."""
        split, third = self.expect(name, "Reshape", "Squeeze"), None
        if split.op == "Squeeze":
            part = self.expect(split.inputs[0], "Slice")
            third, end = self.bounds(part)
            split = self.expect(part.inputs[0], "Reshape")
            self.check_thirds(split, part, third, end)
        sizes = self.sizes(split)
        features = sizes[-1] if sizes else 0
        linear, read = self.linear(split.inputs[0])
        if features == -1 and len(sizes) == 4 and sizes[2] > 0:
            features = len(linear.bias) // sizes[2]
        if features < 1 or features % 4:
            raise refused(split, f"its heads have {features} features, not a multiple of 4")
        return linear if third is None else _third(linear, third), read, features

    def check_thirds(self, split: Node, part: Node, third: int, end: int) -> None:
        """Refuse `part` unless it is one of query, key and value in [batch, length, 3, ...]."""
        axes, sizes = self.sliced_axes(part), self.sizes(split)
        linear, _ = self.linear(split.inputs[0])
        known = axes in ([2], [-3]) and 0 <= third == end - 1 < 3
        if not known or len(sizes) != 5 or sizes[2] != 3 or len(linear.bias) % 12:
            raise refused(part, "it is not query, key or value of one Linear layer")

    def sizes(self, reshape: Node) -> list[int]:
        """The sizes of a Reshape; 0 for those that are not constant."""
        constant = self.graph.constants.get(reshape.inputs[1])
        if constant is not None:
            return [int(size) for size in constant] if constant.ndim == 1 else []
        concat = self.expect(reshape.inputs[1], "Concat")
        sizes: list[int] = []
        for part in map(self.graph.constants.get, concat.inputs):
            sizes += [0] if part is None else [int(size) for size in part.reshape(-1)]
        return sizes


def _repeated(linear: Linear, features: int, times: int) -> Linear:
    """The rows of each head, of so many features, so many times in turn."""

    def repeat(rows: Array) -> Array:
        heads = rows.reshape(-1, features, *rows.shape[1:])
        return np.repeat(heads, times, axis=0).reshape(-1, *rows.shape[1:])

    scale = None if linear.scale is None else repeat(linear.scale)
    return replace(linear, weight=repeat(linear.weight), scale=scale, bias=repeat(linear.bias))


def _third(linear: Linear, index: int) -> Linear:
    rows = slice(index * len(linear.bias) // 3, (index + 1) * len(linear.bias) // 3)
    scale = None if linear.scale is None else linear.scale[rows]
    return replace(linear, weight=linear.weight[rows], scale=scale, bias=linear.bias[rows])
