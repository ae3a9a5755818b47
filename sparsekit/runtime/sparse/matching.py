"""Finds the encoder in a graph by how its nodes are connected, whatever their names.

    x -> Linear (query, key, value) -> attention -> Linear -> + x -> LayerNormalization -> y
    y -> Linear -> activation -> Linear -> + y -> LayerNormalization -> the next layer's x

A layer without heads adds a constant in place of attention, one without neurons in place of the
feed-forward layers.

The search goes backwards from the last layer's output, of which the head reads the first token, or
every token.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np

from sparsekit.errors import UserError
from sparsekit.runtime.sparse.activations import ACTIVATIONS, find_activation
from sparsekit.runtime.sparse.graph import Array, Graph, Node, every_token, refused
from sparsekit.runtime.sparse.operators import dequantize
from sparsekit.runtime.sparse.structure import Attention, Encoder, Layer, Linear, Norm, Quantizer

_HEADS_FIRST, _TRANSPOSED = [0, 2, 1, 3], [0, 2, 3, 1]
_FLOAT32 = np.dtype(np.float32)
# Scales with a reciprocal in float32.
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-37, 1e37


def find_encoder(graph: Graph) -> Encoder:
    """The graph's encoder; raises UserError that names the first node that is not supported."""
    return _Matcher(every_token(graph)).encoder()


class _Matcher:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.heads: list[tuple[str, str, str] | None] = []
        self.context: list[str | None] = []

    def encoder(self) -> Encoder:
        selects = [node for node in self.graph.nodes if self.is_first_token(node)]
        norms = [node for node in self.graph.nodes if node.op == "LayerNormalization"]
        if len(selects) > 1 or not norms:
            raise UserError(
                "runtime=sparse cannot run this graph: its head reads neither the first token of "
                "an encoder's output nor all of them; run this model with runtime=onnxruntime"
            )
        # Without a selection the head reads what the last layer computes, of every token.
        last = selects[0] if selects else norms[-1]
        count = sum(node.op == "Softmax" for node in self.graph.nodes)
        layers: list[Layer] = []
        masks: set[str] = set()
        name = last.inputs[0] if selects else last.outputs[0]
        while len(masks) <= 1 and (count or self.has_no_attention(name)):
            layer, name, mask = self.layer(name)
            layers.append(layer)
            if mask is not None:
                masks.add(mask)
                count -= 1
        if len(masks) != 1:
            raise refused(last, "the layers before it have different masks, or no mask")
        return Encoder(
            layers=layers[::-1],
            source=name,
            mask=masks.pop(),
            output=last.outputs[0],
            all_tokens=not selects,
            heads=self.heads[::-1],
            context=self.context[::-1],
        )

    def is_first_token(self, node: Node) -> bool:
        if node.op != "Gather" or node.attributes.get("axis", 0) != 1:
            return False
        index = self.graph.constants.get(node.inputs[1])
        return index is not None and index.ndim == 0 and int(index) == 0

    def layer(self, name: str) -> tuple[Layer, str, str | None]:
        """The layer with the output `name`, with the names of its input, and of its mask if any."""
        output_norm, added = self.norm(name)
        intermediate, activation = None, None
        if constant := self.constant_summand(added):
            output, normalized = constant
            attention_norm, added = self.norm(normalized)
        else:
            output, activation, activated, normalized = self.feed_forward(added)
            intermediate, source = self.linear(activated)
            attention_norm, added = self.norm(normalized)
            if source != normalized:
                raise refused(added, "it does not add the input of the Linear layers before it")
        attention, mask = None, None
        if constant := self.constant_summand(added):
            attention_output, source = constant
            self.heads.append(None)
            self.context.append(None)
        else:
            attention_output, context, source = self.attention_residual(added)
            attention, read, mask = self.attention(context)
            if read != source:
                raise refused(added, "it does not add the input of query, key and value")
        layer = Layer(
            attention,
            attention_output,
            attention_norm,
            intermediate,
            activation,
            output,
            output_norm,
        )
        return layer, source, mask

    def has_no_attention(self, name: str) -> bool:
        """Whether `name` is the output of a layer that adds a constant in place of attention."""
        feed_forward = self.branch(name)
        attention = None if feed_forward is None else self.branch(feed_forward[1])
        return attention is not None and attention[0] is None

    def branch(self, name: str) -> tuple[str | None, str] | None:
        """Of the LayerNormalization with the output `name`, which sums a branch and its input.

        The Linear layer of the branch, None if it is a constant, and the name of the input. None
        where there is no such sum.
        """
        norm = self.graph.producers.get(name)
        if norm is None or norm.op != "LayerNormalization":
            return None
        added = self.graph.producers.get(norm.inputs[0])
        if added is None or added.op not in ("Add", "Sum") or len(added.inputs) != 2:
            return None
        if constant := self.constant_summand(added):
            return None, constant[1]
        for linear, other in permutations(added.inputs):
            if self.is_linear(linear):
                return linear, other
        return None

    def constant_summand(self, added: Node) -> tuple[Linear, str] | None:
        """The summands of `added` if one is a constant [features]: it, and the other's name."""
        for name, other in permutations(added.inputs) if len(added.inputs) == 2 else ():
            bias = self.graph.constants.get(name)
            if bias is not None and bias.ndim == 1 and other not in self.graph.constants:
                self.check_array(added, name, bias, bias.shape)
                weight = np.zeros((len(bias), 0), np.float32)
                return Linear(weight, None, bias, None, added.name), other
        return None

    def attention(self, context: Node) -> tuple[Attention, str, str]:
        """The attention whose heads `context` concatenates, with its input and its mask."""
        sizes = self.graph.constants.get(context.inputs[1])
        if sizes is not None and sizes.ndim != 1:
            raise refused(context, f"its sizes are {_described(sizes)}, expected one dimension")
        heads = self.expect(context.inputs[0], "Transpose")
        matmul = self.expect(heads.inputs[0], "MatMul")
        probabilities, quantizer = self.unquantized(matmul.inputs[0])
        softmax = self.expect(probabilities, "Softmax")
        if softmax.attributes.get("axis", -1) not in (-1, 3):
            raise refused(softmax, "it is not over the last axis, the keys")
        masked = self.expect(softmax.inputs[0], "Add")
        scores, scale, mask = self.scores(masked)
        sides = [
            self.head(scores.inputs[0], _HEADS_FIRST),
            self.head(scores.inputs[1], _TRANSPOSED),
        ]
        sides.append(self.head(matmul.inputs[1], _HEADS_FIRST))
        self.check_axes(heads, _HEADS_FIRST)
        (query, read, features, _, query_heads), (key, *_), (value, *_) = sides
        self.heads.append((query_heads, sides[1][4], sides[2][4]))
        self.context.append(context.outputs[0])
        kinds = {(side[0].inputs, side[0].scale is None, side[1], side[2]) for side in sides}
        if len(kinds) != 1:
            raise refused(
                scores, "query, key and value have different inputs, quantizers or head sizes"
            )
        quantizers = [side[3] for side in sides]
        operands = (quantizers[0], quantizers[1], quantizer, quantizers[2])
        return Attention(query, key, value, features, scale, operands), read, mask

    def scores(self, masked: Node) -> tuple[Node, float, str]:
        """The matmul of query and key, its scale, and the mask that `masked` adds."""
        for scaled, mask in permutations(masked.inputs):
            node = self.graph.producers.get(scaled)
            if node is None:
                continue
            if node.op == "MatMul":
                return node, 1.0, mask
            for scores, factor in permutations(node.inputs) if node.op == "Mul" else ():
                matmul = self.graph.producers.get(scores)
                constant = self.graph.constants.get(factor)
                if matmul is not None and matmul.op == "MatMul" and constant is not None:
                    self.check_array(node, factor, constant, ())
                    return matmul, float(constant), mask
        raise refused(
            masked, "it adds no mask to the scores, query times key, scaled by a constant"
        )

    def head(self, name: str, axes: list[int]) -> tuple[Linear, str, int, Quantizer | None, str]:
        """The Linear layer with the heads `name`, its input, the features of a head, the heads'
        quantizer, and the name of the heads [batch, length, heads, features]."""
        source, quantizer = self.unquantized(name)
        transpose = self.expect(source, "Transpose")
        self.check_axes(transpose, axes)
        split = self.expect(transpose.inputs[0], "Reshape")
        sizes = self.graph.constants.get(split.inputs[1])
        if sizes is None:
            concat = self.expect(split.inputs[1], "Concat")
            sizes = self.constant(concat, concat.inputs[-1])
        features = int(sizes[-1]) if sizes.ndim == 1 and len(sizes) else 0
        if features < 1 or features % 4:
            raise refused(split, f"its heads have {features} features, not a multiple of 4")
        linear, read = self.linear(split.inputs[0])
        return linear, read, features, quantizer, split.outputs[0]

    def feed_forward(self, added: Node) -> tuple[Linear, str, str, str]:
        """The summands of `added`: a Linear layer after an activation, with the names of the
        activation and of its input, and the other summand."""
        for linear, source, other in self.residuals(added):
            if found := find_activation(self.graph, source):
                return linear, *found, other
        raise refused(
            added, f"no summand is a Linear layer after an activation: {', '.join(ACTIVATIONS)}"
        )

    def attention_residual(self, added: Node) -> tuple[Linear, Node, str]:
        """The summands of `added`: a Linear layer, with the node that concatenates the heads that
        it reads, and the name of the other."""
        for linear, source, other in self.residuals(added):
            node = self.graph.producers.get(source)
            if node is not None and node.op == "Reshape":
                return linear, node, other
        raise refused(added, "no summand is a Linear layer after the heads of attention")

    def residuals(self, added: Node) -> Iterator[tuple[Linear, str, str]]:
        """Each summand of `added` that is a Linear layer, its input, and the other summand."""
        for name, other in permutations(added.inputs):
            if self.is_linear(name):
                yield *self.linear(name), other

    def is_linear(self, name: str) -> bool:
        node = self.graph.producers.get(name)
        if node is not None and node.op in ("Add", "Sum"):
            node = self.graph.producers.get(node.inputs[0])
        return node is not None and node.op == "MatMul"

    def linear(self, name: str) -> tuple[Linear, str]:
        """The Linear layer with the output `name`, and its input."""
        node = self.expect(name, "Add", "Sum", "MatMul")
        bias = None
        if node.op != "MatMul":
            bias = self.constant(node, node.inputs[1])
            node = self.expect(node.inputs[0], "MatMul")
        source, quantizer = self.unquantized(node.inputs[0])
        weight, scale = self.weight(node)
        rows = len(weight)
        if bias is None:
            bias = np.zeros(rows, np.float32)
        self.check_array(node, "its bias", bias, (rows,))
        if rows % 4 or weight.shape[1] % 4:
            raise refused(node, f"its weight has shape {list(weight.T.shape)}, not multiples of 4")
        return Linear(weight, scale, bias, quantizer, node.name), source

    def weight(self, matmul: Node) -> tuple[Array, Array | None]:
        """The weight [out, in], and the scales [out] where it is int8."""
        stored = self.graph.producers.get(matmul.inputs[1])
        if stored is None:
            weight = self.constant(matmul, matmul.inputs[1])
            if weight.ndim != 2 or weight.dtype != np.float32 or not weight.size:
                raise refused(matmul, f"its weight is {_described(weight)}, not float32 [in, out]")
            return weight.T, None
        if stored.op != "DequantizeLinear":
            raise refused(stored, "the weight of a Linear layer has to be a constant")
        integers, scale = (self.constant(stored, name) for name in stored.inputs[:2])
        if integers.ndim != 2 or integers.dtype not in (np.int8, np.uint8) or not integers.size:
            raise refused(stored, f"its weight is {_described(integers)}, not int8 [in, out]")
        per_channel = (integers.shape[1],) if scale.ndim else ()
        if stored.attributes.get("axis", 1) not in (1, -1) or stored.attributes.get("block_size"):
            raise refused(stored, "its weight needs one scale, or one for each output")
        self.check_array(stored, stored.inputs[1], scale, per_channel)
        zero_point = np.zeros_like(scale, integers.dtype)
        if len(stored.inputs) > 2:
            zero_point = self.constant(stored, stored.inputs[2])
            self.check_array(stored, stored.inputs[2], zero_point, per_channel, integers.dtype)
        if integers.dtype != np.int8 or zero_point.any():
            return dequantize(integers, scale, zero_point).T, None
        return integers.T, np.broadcast_to(scale, integers.shape[1:])

    def unquantized(self, name: str) -> tuple[str, Quantizer | None]:
        """The tensor before a pair of QuantizeLinear and DequantizeLinear, and its quantizer."""
        node = self.graph.producers.get(name)
        if node is None or node.op != "DequantizeLinear":
            return name, None
        pair = self.expect(node.inputs[0], "QuantizeLinear")
        if len(pair.inputs) != 3 or pair.inputs[1:] != node.inputs[1:]:
            raise refused(
                node, "QuantizeLinear and DequantizeLinear need the same scale and zero point"
            )
        scale, zero_point = (self.constant(pair, part) for part in pair.inputs[1:3])
        self.check_array(pair, pair.inputs[1], scale, ())
        if zero_point.ndim or zero_point.dtype not in (np.uint8, np.int8):
            raise refused(
                pair, f"its zero point is {_described(zero_point)}, not one uint8 or int8 value"
            )
        if not _SMALLEST_SCALE <= scale <= _LARGEST_SCALE:
            raise refused(pair, f"its scale is {scale}, not a positive float32")
        return pair.inputs[0], Quantizer(float(scale), int(zero_point), zero_point.dtype)

    def norm(self, name: str) -> tuple[Norm, Node]:
        """The LayerNormalization with the output `name`, and the sum that it reads."""
        node = self.expect(name, "LayerNormalization")
        if node.attributes.get("axis", -1) not in (-1, 2):
            raise refused(node, "it is not over the last axis, the features")
        weight = self.constant(node, node.inputs[1])
        bias = np.zeros_like(weight)
        if len(node.inputs) > 2:
            bias = self.constant(node, node.inputs[2])
        epsilon = float(node.attributes.get("epsilon", 1e-5))
        return Norm(weight, bias, epsilon, node.name), self.expect(node.inputs[0], "Add", "Sum")

    def check_axes(self, node: Node, axes: list[int]) -> None:
        order = list(node.attributes.get("perm", []))
        if order != axes:
            raise refused(node, f"it permutes axes to {order}, not {axes}")

    def constant(self, node: Node, name: str) -> Array:
        if name not in self.graph.constants:
            raise refused(node, f"its input {name!r} is not a constant")
        return self.graph.constants[name]

    def check_array(
        self,
        node: Node,
        name: str,
        array: Array,
        shape: tuple[int, ...],
        dtype: np.dtype[Any] = _FLOAT32,
    ) -> None:
        if array.shape != shape or array.dtype != dtype:
            raise refused(node, f"{name} is {_described(array)}; expected {dtype} {list(shape)}")

    def expect(self, name: str, *ops: str) -> Node:
        node = self.graph.producers.get(name)
        if node is None or node.outputs[0] != name:
            raise UserError(
                f"runtime=sparse cannot run this graph: the encoder has {' or '.join(ops)} in "
                f"place of {name!r}; run this model with runtime=onnxruntime"
            )
        if node.op not in ops:
            raise refused(node, f"the encoder has {' or '.join(ops)} here")
        return node


def _described(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"
