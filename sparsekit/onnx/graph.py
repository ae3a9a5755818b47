"""Functions on onnx_ir graphs that several passes use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from sparsekit.onnx.layers import Layer, Layers, Quantizer

# How a Linear is exported: MatMul for inputs [batch, sequence, in], Gemm for [batch, in].
MATMULS = ("MatMul", "Gemm")


def layer_nodes(model: ir.Model, layers: Layers, *op_types: str) -> Iterator[tuple[ir.Node, Layer]]:
    """The nodes of these types that came from a Linear or Embedding, with that layer."""
    for node in list(model.graph):
        layer = layers.get(node.meta["module"])
        if layer is not None and node.op_type in op_types:
            yield node, layer


def initializer(model: ir.Model, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """The constant `name` of the graph, made at its first use: a layer may be called several times.

    Args:
        model: the graph.
        name: of the constant; the same name always has the same content.
        array: its content.
    """
    if (known := model.graph.initializers.get(name)) is not None:
        return known
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    model.graph.register_initializer(value)
    return value


def new_node(
    module: str, op_type: str, inputs: list[ir.Value], name: str, **attributes: int | list[int]
) -> ir.Node:
    """A node that belongs to `module`; `name` is its name and that of its output."""
    node = ir.node(op_type, inputs, attributes=attributes, outputs=[ir.val(name)], name=name)
    node.meta["module"] = module
    return node


def quantizer_constants(model: ir.Model, prefix: str, quantizer: Quantizer) -> list[ir.Value]:
    """The quantizer's scale and zero point as constants of the graph."""
    return [
        initializer(model, f"{prefix}_scale", quantizer.scale),
        initializer(model, f"{prefix}_zero_point", quantizer.zero_point),
    ]


def number_repeated(model: ir.Model) -> None:
    """Number the nodes and values of a layer that is called several times, from the second on.

    Passes name what they add after its layer, and ONNX needs each name once.
    """
    taken = {value.name for value in model.graph.inputs} | set(model.graph.initializers)
    outputs = set(model.graph.outputs)
    taken |= {value.name for value in outputs}
    for node in model.graph:
        for value in node.outputs:
            if value not in outputs:
                value.name = _free(value.name, taken)
    nodes: set[str | None] = set()
    for node in model.graph:
        node.name = _free(node.name, nodes)


def _free(name: str | None, taken: set[str | None]) -> str | None:
    """`name`, with a number where it is in `taken`; adds the result to `taken`."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}.{number}"
    taken.add(free)
    return free


def remove_unused(model: ir.Model) -> None:
    """Remove constants and nodes that are not used any more."""
    common.RemoveUnusedNodesPass()(model)


def quantize_pair(
    model: ir.Model, module: str, side: str, values: ir.Value, quantizer: Quantizer
) -> list[ir.Node]:
    """New nodes QuantizeLinear and DequantizeLinear for `values`, not yet in the graph."""
    prefix = f"{module}.{side}"
    constants = quantizer_constants(model, prefix, quantizer)
    name = f"{prefix}_quantized"
    quantize = new_node(module, "QuantizeLinear", [values, *constants], name)
    name = f"{prefix}_dequantized"
    dequantize = new_node(module, "DequantizeLinear", [quantize.outputs[0], *constants], name)
    return [quantize, dequantize]
