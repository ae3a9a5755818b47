"""Store the tables of quantized Embedding layers as int8, and dequantize the rows that are read.

    ids --> Gather --> y          ids --> Gather --> DequantizeLinear --> y
              ^             =>              ^                ^
       table (float32)                table (int8)   scale, zero point

A table whose output is also quantized stores the output's integers (uint8) and scale. The table
then has a quarter of the size in the file and in memory, and only the rows that are read become
float32.
"""

from __future__ import annotations

import logging

import onnx_ir as ir

from sparsekit.onnx.graph import (
    initializer,
    layer_nodes,
    new_node,
    quantizer_constants,
    remove_unused,
)
from sparsekit.onnx.layers import Layers

log = logging.getLogger(__name__)


def embeddings(model: ir.Model, layers: Layers) -> int:
    """Rewrite the graph in place; returns the number of int8 tables."""
    count = 0
    for node, layer in layer_nodes(model, layers, "Gather"):
        if not layer.embedding or layer.storage is None:
            continue
        table = initializer(model, layer.stored_name, layer.stored)
        ids = node.inputs[1]
        assert ids is not None
        gather = new_node(layer.name, "Gather", [table, ids], f"{layer.name}.rows", axis=0)
        constants = quantizer_constants(model, f"{layer.name}.weight", layer.storage)
        inputs = [gather.outputs[0], *constants]
        dequantize = new_node(layer.name, "DequantizeLinear", inputs, f"{layer.name}.values")
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [gather, dequantize], node.outputs, dequantize.outputs
        )
        count += 1
    remove_unused(model)
    log.info("embeddings: %d tables stored as int8", count)
    return count
