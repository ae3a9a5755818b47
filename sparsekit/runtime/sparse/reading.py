"""Reads Linear layers, norms and quantizers from a graph, and refuses what the kernels lack."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np

from sparsekit.errors import UserError
from sparsekit.runtime.sparse.graph import Array, Graph, Node, refused
from sparsekit.runtime.sparse.operators import dequantize
from sparsekit.runtime.sparse.structure import Linear, Norm, Quantizer

_FLOAT32 = np.dtype(np.float32)
# Scales with a reciprocal in float32.
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-37, 1e37


class GraphReader:
    """Reads parts of a graph; each method raises UserError that names what is not supported."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

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
                raise refused(matmul, f"its weight is {described(weight)}, not float32 [in, out]")
            return weight.T, None
        if stored.op != "DequantizeLinear":
            raise refused(stored, "the weight of a Linear layer has to be a constant")
        integers, scale = (self.constant(stored, name) for name in stored.inputs[:2])
        if integers.ndim != 2 or integers.dtype not in (np.int8, np.uint8) or not integers.size:
            raise refused(stored, f"its weight is {described(integers)}, not int8 [in, out]")
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
                pair, f"its zero point is {described(zero_point)}, not one uint8 or int8 value"
            )
        if not _SMALLEST_SCALE <= scale <= _LARGEST_SCALE:
            raise refused(pair, f"its scale is {scale}, not a positive float32")
        return pair.inputs[0], Quantizer(float(scale), int(zero_point), zero_point.dtype)

    def norm(self, name: str) -> tuple[Norm, str]:
        """The norm with the output `name`, and the tensor that it reads."""
        if found := self.root_mean_square_norm(name):
            return found
        node = self.expect(name, "LayerNormalization")
        if node.attributes.get("axis", -1) not in (-1, 2):
            raise refused(node, "it is not over the last axis, the features")
        weight = self.constant(node, node.inputs[1])
        bias = np.zeros_like(weight)
        if len(node.inputs) > 2:
            bias = self.constant(node, node.inputs[2])
        epsilon = float(node.attributes.get("epsilon", 1e-5))
        return Norm(weight, bias, epsilon, node.name), node.inputs[0]

    def is_norm(self, name: str) -> bool:
        node = self.graph.producers.get(name)
        return node is not None and (
            node.op == "LayerNormalization" or self.root_mean_square_norm(name) is not None
        )

    def root_mean_square_norm(self, name: str) -> tuple[Norm, str] | None:
        """x / sqrt(mean(x^2) + epsilon) * weight, and x; None where `name` is something else."""
        for factor, normalized in self.factors(name):
            weight = self.graph.constants.get(factor)
            if weight is None or weight.ndim != 1 or weight.dtype != np.float32:
                continue
            for x, scale in self.factors(normalized):
                epsilon = self.epsilon_of_mean_square(scale, x)
                if epsilon is not None:
                    last = self.graph.producers[name].name
                    return Norm(weight, np.zeros_like(weight), epsilon, last, centered=False), x
        return None

    def factors(self, name: str) -> Iterator[tuple[str, ...]]:
        """The two factors of the product `name`, in both orders; none where it is no product."""
        node = self.graph.producers.get(name)
        if node is not None and node.op == "Mul":
            yield from permutations(node.inputs)

    def epsilon_of_mean_square(self, name: str, x: str) -> float | None:
        """The epsilon where `name` is 1 / sqrt(mean(x^2) + epsilon), over the last axis."""
        constants, path = self.graph.constants, []
        for op in ("Reciprocal", "Sqrt", "Add", "ReduceMean", "Pow"):
            node = self.graph.producers.get(name)
            if node is None or node.op != op:
                return None
            if op in ("Add", "ReduceMean", "Pow") and len(node.inputs) != 2:
                return None
            path.append(node)
            name = node.inputs[0]
        _, _, _, mean, square = path
        second = [name for node in path[2:] for name in node.inputs[1:]]
        epsilon, axes, power = map(constants.get, second)
        if epsilon is None or axes is None or power is None or square.inputs[0] != x:
            return None
        if axes.tolist() not in ([-1], [2]) or not mean.attributes.get("keepdims", 1):
            return None
        if epsilon.ndim or power.tolist() != 2 or {epsilon.dtype, power.dtype} != {_FLOAT32}:
            return None
        return float(epsilon)

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
            raise refused(node, f"{name} is {described(array)}; expected {dtype} {list(shape)}")

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


def described(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"
