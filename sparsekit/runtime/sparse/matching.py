"""The encoder in a graph: its layers found by how they are wired, whatever they are called.

    x -> Linear (query, key, value) -> attention -> Linear -> + x -> LayerNormalization -> y
    y -> Linear -> Gelu or Relu -> Linear -> + y -> LayerNormalization -> the next layer's x

Each is followed backwards, from the last layer's output, of which the first token is taken.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np

from sparsekit.errors import UserError
from sparsekit.runtime.sparse.graph import Array, Graph, Node, every_token, refused
from sparsekit.runtime.sparse.operators import dequantize
from sparsekit.runtime.sparse.structure import Attention, Encoder, Layer, Linear, Norm, Quantizer

ACTIVATIONS = ("Gelu", "Relu")
_HEADS_FIRST, _TRANSPOSED = [0, 2, 1, 3], [0, 2, 3, 1]
_FLOAT32 = np.dtype(np.float32)
# Scales that have a reciprocal in float32.
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-37, 1e37


def find_encoder(graph: Graph) -> Encoder:
    """The graph's encoder; raises UserError that names the node where it is none of ours."""
    return _Matcher(every_token(graph)).encoder()


class _Matcher:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.heads: list[tuple[str, str, str]] = []
        self.joined: list[str] = []

    def encoder(self) -> Encoder:
        selects = [node for node in self.graph.nodes if self.is_first_token(node)]
        if len(selects) != 1:
            raise UserError(
                "runtime=sparse cannot run this graph: not the first token alone is read of the "
                "encoder's output; run this model with runtime=onnxruntime"
            )
        (select,) = selects
        count = sum(node.op == "Softmax" for node in self.graph.nodes)
        layers, name, masks = [], select.inputs[0], set()
        for _ in range(count):
            layer, name, mask = self.layer(name)
            layers.append(layer)
            masks.add(mask)
        if len(masks) != 1:
            raise refused(select, "the layers before it have different masks, or there are none")
        return Encoder(
            layers[::-1], name, masks.pop(), select.outputs[0], self.heads[::-1], self.joined[::-1]
        )

    def is_first_token(self, node: Node) -> bool:
        if node.op != "Gather" or node.attributes.get("axis", 0) != 1:
            return False
        index = self.graph.constants.get(node.inputs[1])
        return index is not None and index.ndim == 0 and int(index) == 0

    def layer(self, name: str) -> tuple[Layer, str, str]:
        """The layer whose output is called `name`, its input and its mask."""
        output_norm, added = self.norm(name)
        output, activation, normalized = self.residual(added, ACTIVATIONS)
        intermediate, source = self.linear(activation.inputs[0])
        if activation.attributes.get("approximate", b"none") != b"none":
            raise refused(activation, "its approximation by tanh is not known here")
        attention_norm, added = self.norm(normalized)
        if source != normalized:
            raise refused(added, "what it adds is not what the Linear layers before it read")
        attention_output, joined, source = self.residual(added, ("Reshape",))
        attention, read, mask = self.attention(joined)
        if read != source:
            raise refused(added, "what it adds is not what query, key and value read")
        layer = Layer(
            attention,
            attention_output,
            attention_norm,
            intermediate,
            activation.op,
            output,
            output_norm,
        )
        return layer, source, mask

    def attention(self, joined: Node) -> tuple[Attention, str, str]:
        """The attention whose heads `joined` brings together, with its input and its mask."""
        sizes = self.graph.constants.get(joined.inputs[1])
        if sizes is not None and sizes.ndim != 1:
            raise refused(joined, f"its sizes are {_described(sizes)}, not one list")
        heads = self.expect(joined.inputs[0], "Transpose")
        product = self.expect(heads.inputs[0], "MatMul")
        probabilities, rounded = self.unrounded(product.inputs[0])
        softmax = self.expect(probabilities, "Softmax")
        if softmax.attributes.get("axis", -1) not in (-1, 3):
            raise refused(softmax, "it is not over the last axis, the keys")
        masked = self.expect(softmax.inputs[0], "Add")
        scores, scale, mask = self.scores(masked)
        sides = [
            self.head(scores.inputs[0], _HEADS_FIRST),
            self.head(scores.inputs[1], _TRANSPOSED),
        ]
        sides.append(self.head(product.inputs[1], _HEADS_FIRST))
        self.check_axes(heads, _HEADS_FIRST)
        (query, read, features, _, query_heads), (key, *_), (value, *_) = sides
        self.heads.append((query_heads, sides[1][4], sides[2][4]))
        self.joined.append(joined.outputs[0])
        kinds = {(side[0].inputs, side[0].scale is None, side[1], side[2]) for side in sides}
        if len(kinds) != 1:
            raise refused(scores, "query, key and value differ in what they read or how")
        roundings = [side[3] for side in sides]
        operands = (roundings[0], roundings[1], rounded, roundings[2])
        return Attention(query, key, value, features, scale, operands), read, mask

    def scores(self, masked: Node) -> tuple[Node, float, str]:
        """The product of query and key, what scales it, and the mask that `masked` adds."""
        for scaled, mask in permutations(masked.inputs):
            node = self.graph.producers.get(scaled)
            if node is None:
                continue
            if node.op == "MatMul":
                return node, 1.0, mask
            for product, factor in permutations(node.inputs) if node.op == "Mul" else ():
                made = self.graph.producers.get(product)
                constant = self.graph.constants.get(factor)
                if made is not None and made.op == "MatMul" and constant is not None:
                    self.check_array(node, factor, constant, ())
                    return made, float(constant), mask
        raise refused(masked, "it adds no mask to the scaled product of query and key")

    def head(self, name: str, axes: list[int]) -> tuple[Linear, str, int, Quantizer | None, str]:
        """The Linear layer whose heads are called `name`, its input, a head's features, how they
        are quantized, and the name of the heads [batch, length, heads, features]."""
        source, rounded = self.unrounded(name)
        turned = self.expect(source, "Transpose")
        self.check_axes(turned, axes)
        split = self.expect(turned.inputs[0], "Reshape")
        sizes = self.graph.constants.get(split.inputs[1])
        if sizes is None:
            joined = self.expect(split.inputs[1], "Concat")
            sizes = self.constant(joined, joined.inputs[-1])
        features = int(sizes[-1]) if sizes.ndim == 1 and len(sizes) else 0
        if features < 1 or features % 4:
            raise refused(split, f"its heads of {features} features are not made of fours")
        linear, read = self.linear(split.inputs[0])
        return linear, read, features, rounded, split.outputs[0]

    def residual(self, added: Node, behind: tuple[str, ...]) -> tuple[Linear, Node, str]:
        """Of a sum: the Linear layer, the node of a type in `behind` that it reads, and the other
        summand."""
        for name, other in permutations(added.inputs):
            if not self.is_linear(name):
                continue
            linear, source = self.linear(name)
            node = self.graph.producers.get(source)
            if node is not None and node.op in behind:
                return linear, node, other
        raise refused(added, f"no summand is a Linear layer behind {' or '.join(behind)}")

    def is_linear(self, name: str) -> bool:
        node = self.graph.producers.get(name)
        if node is not None and node.op in ("Add", "Sum"):
            node = self.graph.producers.get(node.inputs[0])
        return node is not None and node.op == "MatMul"

    def linear(self, name: str) -> tuple[Linear, str]:
        """The Linear layer whose output is called `name`, and its input."""
        node = self.expect(name, "Add", "Sum", "MatMul")
        bias = None
        if node.op != "MatMul":
            bias = self.constant(node, node.inputs[1])
            node = self.expect(node.inputs[0], "MatMul")
        source, rounded = self.unrounded(node.inputs[0])
        weight, scale = self.weight(node)
        rows = len(weight)
        if bias is None:
            bias = np.zeros(rows, np.float32)
        self.check_array(node, "its bias", bias, (rows,))
        if rows % 4 or weight.shape[1] % 4:
            raise refused(node, f"its weight {list(weight.T.shape)} is not made of fours")
        return Linear(weight, scale, bias, rounded, node.name), source

    def weight(self, product: Node) -> tuple[Array, Array | None]:
        """[out, in], and the scales [out] of an int8 one."""
        stored = self.graph.producers.get(product.inputs[1])
        if stored is None:
            weight = self.constant(product, product.inputs[1])
            if weight.ndim != 2 or weight.dtype != np.float32 or not weight.size:
                raise refused(product, f"its weight is {_described(weight)}, not float32 [in, out]")
            return weight.T, None
        if stored.op != "DequantizeLinear":
            raise refused(stored, "a Linear layer's weight is a constant here")
        integers, scale = (self.constant(stored, name) for name in stored.inputs[:2])
        if integers.ndim != 2 or integers.dtype not in (np.int8, np.uint8) or not integers.size:
            raise refused(stored, f"its weight is {_described(integers)}, not int8 [in, out]")
        per_channel = (integers.shape[1],) if scale.ndim else ()
        if stored.attributes.get("axis", 1) not in (1, -1) or stored.attributes.get("block_size"):
            raise refused(stored, "its weight has one scale, or one for each output")
        self.check_array(stored, stored.inputs[1], scale, per_channel)
        zero_point = np.zeros_like(scale, integers.dtype)
        if len(stored.inputs) > 2:
            zero_point = self.constant(stored, stored.inputs[2])
            self.check_array(stored, stored.inputs[2], zero_point, per_channel, integers.dtype)
        if integers.dtype != np.int8 or zero_point.any():
            return dequantize(integers, scale, zero_point).T, None
        return integers.T, np.broadcast_to(scale, integers.shape[1:])

    def unrounded(self, name: str) -> tuple[str, Quantizer | None]:
        """The tensor before a pair of QuantizeLinear and DequantizeLinear, and what they do."""
        node = self.graph.producers.get(name)
        if node is None or node.op != "DequantizeLinear":
            return name, None
        pair = self.expect(node.inputs[0], "QuantizeLinear")
        if len(pair.inputs) != 3 or pair.inputs[1:] != node.inputs[1:]:
            raise refused(node, "activations have one scale and zero point, and are read with them")
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
        """The LayerNormalization whose output is called `name`, and the sum that it reads."""
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
                f"runtime=sparse found {name!r} where the encoder has {' or '.join(ops)}; run this "
                "model with runtime=onnxruntime"
            )
        if node.op not in ops:
            raise refused(node, f"the encoder has {' or '.join(ops)} here")
        return node


def _described(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"
