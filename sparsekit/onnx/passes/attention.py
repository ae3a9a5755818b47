"""Quantize the operands of attention's two matmuls, where the recipe did.

    query ----> MatMul --> Softmax --> MatMul        each operand --> QuantizeLinear --> ...
                  ^                      ^      =>
    key ----------+          value ------+

In one form DequantizeLinear follows, which runtimes fuse into an int8 matmul; in the other the int8
matmul is written as MatMulInteger, Cast and Mul.
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
    """Insert pairs before the matmuls; returns the number of matmuls."""
    count = 0
    for module, node, operands in _matmuls(model, layers):
        for index, (side, quantizer) in enumerate(operands.items()):
            nodes = quantize_pair(model, module, side, _operand(node, index), quantizer)
            model.graph.insert_before(node, nodes)
            node.replace_input_with(index, nodes[-1].outputs[0])
        count += 1
    log.info("attention: %d matmuls with quantized operands", count)
    return count


def attention_integers(model: ir.Model, layers: Layers) -> int:
    """Replace the matmuls by MatMulInteger, Cast and Mul; returns their number."""
    count = 0
    for module, node, operands in _matmuls(model, layers):
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
        matmul = new_node(module, "MatMulInteger", [*integers, *zero_points], f"{name}_integers")
        to = {"to": int(ir.DataType.FLOAT)}
        cast = new_node(module, "Cast", [matmul.outputs[0]], f"{name}_sums", **to)
        scaled = new_node(module, "Mul", [cast.outputs[0], scale], name)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [matmul, cast, scaled], node.outputs, scaled.outputs
        )
        count += 1
    log.info("attention: %d int8 matmuls", count)
    return count


def _matmuls(
    model: ir.Model, layers: Layers
) -> Iterator[tuple[str, ir.Node, dict[str, Quantizer]]]:
    """Module, node and operands of each matmul; raises UserError unless each call has two."""
    nodes = list(model.graph)
    for module, attention in layers.attentions.items():
        matmuls = [n for n in nodes if n.meta["module"] == module and n.op_type == "MatMul"]
        calls, rest = divmod(len(matmuls), len(attention.matmuls))
        if rest or not calls:
            raise UserError(
                f"{module} has {len(matmuls)} matmuls of its own in the graph, expected 2, so "
                "they cannot be quantized; train with quantize_attention=false"
            )
        for node, operands in zip(matmuls, attention.matmuls * calls, strict=True):
            yield module, node, operands


def _operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value
