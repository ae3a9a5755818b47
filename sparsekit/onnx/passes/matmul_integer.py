"""Write int8 matmuls as MatMulInteger, Cast and Mul, the form that DeepSparse supports.

    x --> MatMul (query)          x --> QuantizeLinear --> MatMulInteger (query) --> Cast --> Mul
    +---> MatMul (key)      =>    |          +-----------> MatMulInteger (key) ---> Cast --> Mul
    +---> Add (residual)          +---> Add (residual)

The integer result times the scales of both operands is the float result; the bias is still added by
the Add that follows. Consumers of one tensor with the same scale and zero point share one
QuantizeLinear; a residual sum reads the unquantized tensor. Layers with only one quantized operand
do not change.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir

from sparsekit.onnx.graph import (
    MATMULS,
    initializer,
    layer_nodes,
    new_node,
    quantizer_constants,
    remove_unused,
)
from sparsekit.onnx.layers import Layer, Layers

log = logging.getLogger(__name__)


def matmul_integer(model: ir.Model, layers: Layers) -> int:
    """Rewrite the graph in place; returns the number of MatMulInteger nodes."""
    quantized: dict[tuple[ir.Value, bytes, bytes], list[ir.Value]] = {}
    count = 0
    for node, layer in layer_nodes(model, layers, *MATMULS):
        values = node.inputs[0]
        if layer.inputs is None or layer.weights is None or values is None:
            continue
        key = (values, layer.inputs.scale.tobytes(), layer.inputs.zero_point.tobytes())
        if key not in quantized:
            constants = quantizer_constants(model, f"{layer.name}.input", layer.inputs)
            name = f"{layer.name}.input_quantized"
            quantize = new_node(layer.name, "QuantizeLinear", [values, *constants], name)
            model.graph.insert_before(node, quantize)
            quantized[key] = [quantize.outputs[0], constants[1]]
        _replace(model, node, layer, *quantized[key])
        count += 1
    remove_unused(model)
    log.info("matmul integer: %d matmuls, %d inputs quantized", count, len(quantized))
    return count


def _replace(
    model: ir.Model, node: ir.Node, layer: Layer, integers: ir.Value, zero_point: ir.Value
) -> None:
    """Replace the matmul `node` by MatMulInteger, Cast and Mul."""
    assert layer.weights is not None and layer.inputs is not None
    weight = initializer(model, layer.stored_name, layer.stored.copy())
    # Weights are symmetric, also with a scale for each output channel.
    zero = initializer(model, f"{layer.name}.weight_zero_point", np.array(0, np.int8))
    scales = np.asarray(layer.inputs.scale * layer.weights.scale, np.float32)
    scale = initializer(model, f"{layer.name}.product_scale", scales)
    inputs = [integers, weight, zero_point, zero]
    matmul = new_node(layer.name, "MatMulInteger", inputs, f"{layer.name}.integers")
    to = {"to": int(ir.DataType.FLOAT)}
    cast = new_node(layer.name, "Cast", [matmul.outputs[0]], f"{layer.name}.sums", **to)
    scaled = new_node(layer.name, "Mul", [cast.outputs[0], scale], f"{layer.name}.product")
    ir.convenience.replace_nodes_and_values(
        model.graph, node, [node], [matmul, cast, scaled], node.outputs, scaled.outputs
    )
