"""Store the weights of quantized Linear layers as int8.

    x --> MatMul                  x ------------> MatMul
            ^             =>                        ^
      W (float32)          W (int8) --> DequantizeLinear <-- scale, zero point

A runtime that finds both operands dequantized runs the matmul on integers. Scales of the output
channels lie along axis 1, since the weight is stored [in, out].
"""

from __future__ import annotations

import logging

import onnx_ir as ir

from sparsekit.onnx.graph import (
    MATMULS,
    initializer,
    layer_nodes,
    new_node,
    quantizer_constants,
    remove_unused,
)
from sparsekit.onnx.layers import Layers

log = logging.getLogger(__name__)


def weights(model: ir.Model, layers: Layers) -> int:
    """Rewrite the graph in place; returns the number of int8 weights."""
    count = 0
    for node, layer in layer_nodes(model, layers, *MATMULS):
        if layer.weights is None:
            continue
        stored = initializer(model, layer.stored_name, layer.stored.copy())
        constants = quantizer_constants(model, f"{layer.name}.weight", layer.weights)
        axis = {"axis": 1} if layer.weights.scale.ndim else {}
        inputs = [stored, *constants]
        name = f"{layer.name}.weight_dequantized"
        dequantize = new_node(layer.name, "DequantizeLinear", inputs, name, **axis)
        model.graph.insert_before(node, dequantize)
        node.replace_input_with(1, dequantize.outputs[0])
        count += 1
    remove_unused(model)
    log.info("weights: %d stored as int8", count)
    return count
