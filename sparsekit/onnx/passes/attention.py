"""Quantize the operands of attention's two products, where the recipe did.

    query ----> MatMul --> Softmax --> MatMul        each operand --> QuantizeLinear --> ...
                  ^                      ^      =>
    key ----------+          value ------+

In one form DequantizeLinear follows, which runtimes merge into a product of integers; in the other
that product is spelled out as MatMulInteger, Cast and Mul.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sparsekit.errors import UserError
from sparsekit.onnx.graph import initializer, new_node, quantize_pair, quantizer_constants
from sparsekit.onnx.layers import Layers, Quantizer

log = logging.getLogger(__name__)


def attention_pairs(model: ir.Model, layers: Layers) -> int:
    """Insert pairs in front of the products; returns how many products were quantized."""
    count = 0
    for module, node, operands in _products(model, layers):
        for index, (side, quantizer) in enumerate(operands.items()):
            nodes = quantize_pair(model, module, side, _operand(node, index), quantizer)
            model.graph.insert_before(node, nodes)
            node.replace_input_with(index, nodes[-1].outputs[0])
        count += 1
    log.info("attention: %d products with quantized operands", count)
    return count


def attention_integers(model: ir.Model, layers: Layers) -> int:
    """Put MatMulInteger, Cast and Mul in the products' place; returns how many."""
    count = 0
    for module, node, operands in _products(model, layers):
        integers, zero_points = [], []
        for index, (side, quantizer) in enumerate(operands.items()):
            constants = quantizer_constants(model, f"{module}.{side}", quantizer)
            inputs = [_operand(node, index), *constants]
            quantize = new_node(module, "QuantizeLinear", inputs, f"{module}.{side}_quantized")
            model.graph.insert_before(node, quantize)
            integers.append(quantize.outputs[0])
            zero_points.append(constants[1])
        name = f"{module}.{next(iter(operands))}_product"
        first, second = operands.values()
        scales = np.asarray(first.scale * second.scale, np.float32)
        scale = initializer(model, f"{name}_scale", scales)
        product = new_node(module, "MatMulInteger", [*integers, *zero_points], f"{name}_integers")
        to = {"to": int(ir.DataType.FLOAT)}
        cast = new_node(module, "Cast", [product.outputs[0]], f"{name}_sums", **to)
        scaled = new_node(module, "Mul", [cast.outputs[0], scale], name)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [product, cast, scaled], node.outputs, scaled.outputs
        )
        count += 1
    log.info("attention: %d products of integers", count)
    return count


def _products(
    model: ir.Model, layers: Layers
) -> Iterator[tuple[str, ir.Node, dict[str, Quantizer]]]:
    """Module, node and operands of each product; raises UserError where they are not two."""
    nodes = list(model.graph)
    for module, attention in layers.attentions.items():
        found = [n for n in nodes if n.meta["module"] == module and n.op_type == "MatMul"]
        if len(found) != len(attention.products):
            raise UserError(
                f"{module} has {len(found)} products of its own in the graph, not 2, so its "
                "quantizers have no place; train with quantize_attention=false"
            )
        for node, operands in zip(found, attention.products, strict=True):
            yield module, node, operands


def _operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value
