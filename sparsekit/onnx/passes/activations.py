"""Quantize the inputs of Linear layers, and the outputs of some layers.

    x --> MatMul (query)             x --> QuantizeLinear --> DequantizeLinear --> MatMul (query)
    +---> MatMul (key)        =>     |                               +-----------> MatMul (key)
    +---> Add (residual)             +---> Add (residual)

    Add --> y                 =>     Add --> QuantizeLinear --> DequantizeLinear --> y

Consumers of one tensor with the same scale and zero point (query, key and value) share one pair.
"""

from __future__ import annotations

import logging

import onnx_ir as ir

from sparsekit.onnx.graph import MATMULS, layer_nodes, quantize_pair
from sparsekit.onnx.layers import Layers

log = logging.getLogger(__name__)


def input_activations(model: ir.Model, layers: Layers) -> int:
    """Insert pairs before Linear layers; returns the number of pairs."""
    pairs: dict[tuple[ir.Value, bytes, bytes], ir.Value] = {}
    consumers = 0
    for node, layer in layer_nodes(model, layers, *MATMULS):
        values = node.inputs[0]
        if layer.inputs is None or values is None:
            continue
        key = (values, layer.inputs.scale.tobytes(), layer.inputs.zero_point.tobytes())
        if key not in pairs:
            nodes = quantize_pair(model, layer.name, "input", values, layer.inputs)
            model.graph.insert_before(node, nodes)
            pairs[key] = nodes[-1].outputs[0]
        node.replace_input_with(0, pairs[key])
        consumers += 1
    log.info("input activations: %d pairs for %d layers", len(pairs), consumers)
    return len(pairs)


def output_activations(model: ir.Model, layers: Layers) -> int:
    """Insert a pair after each layer with an output quantizer; returns the number of pairs.

    An Embedding whose table stores its quantized outputs needs none.
    """
    count = 0
    for node in list(model.graph):
        name = node.meta["module"]
        layer = layers.get(name)
        if layer is None or layer.outputs is None or not _leaves(node, name):
            continue
        if layer.embedding and layer.weights is not None:
            continue
        values = node.outputs[0]
        nodes = quantize_pair(model, name, "output", values, layer.outputs)
        rounded = nodes[-1].outputs[0]
        # The graph's own output keeps its name.
        rounded.type, rounded.shape = values.type, values.shape
        rounded.name, values.name = values.name, f"{name}.output"
        values.replace_all_uses_with(rounded, replace_graph_outputs=True)
        nodes[0].replace_input_with(0, values)
        model.graph.insert_after(node, nodes)
        count += 1
    log.info("output activations: %d pairs", count)
    return count


def _leaves(node: ir.Node, module: str) -> bool:
    """Whether the node's result leaves `module`: another module, or the graph's caller, reads it.

    A layer that is called several times has one such node for each call.
    """
    values = node.outputs[0]
    return values.is_graph_output() or any(
        consumer.meta["module"] != module for consumer in values.consumers()
    )
