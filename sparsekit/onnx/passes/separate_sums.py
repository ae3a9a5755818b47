"""Replace Add by Sum where onnxruntime's fusion would be slower.

    residual                                     residual
        v                                            v
    --> Add --> LayerNormalization     =>        --> Sum --> LayerNormalization

    bias                                         bias
      v                                            v
    --> Add --> Gelu                   =>        --> Sum --> Gelu

onnxruntime fuses an Add with the LayerNormalization or Gelu after it. Its fused kernels are not
vectorized over a row: for 128 rows of 768, SkipLayerNormalization takes 0.60 ms where Sum and
LayerNormalization take 0.10, and BiasGelu 0.53 where Sum and Gelu take 0.35 (onnxruntime 1.32, one
core with AVX-512). Sum of two tensors is the same addition, and is not fused with them. Add
stays after a Gemm: onnxruntime fuses Gemm and Sum, and the Gemm would run in float32.
"""

from __future__ import annotations

import logging

import onnx_ir as ir

from sparsekit.onnx.graph import new_node
from sparsekit.onnx.layers import Layers

log = logging.getLogger(__name__)

_CONSUMERS = ("LayerNormalization", "Gelu")


def separate_sums(model: ir.Model, layers: Layers) -> int:
    """Rewrite the graph in place; returns the number of Sum nodes."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "Add":
            continue
        if not any(consumer.op_type in _CONSUMERS for consumer in node.outputs[0].consumers()):
            continue
        inputs = [value for value in node.inputs if value is not None]
        producers = [value.producer() for value in inputs]
        if any(producer is not None and producer.op_type == "Gemm" for producer in producers):
            continue
        name = f"{node.name}.sum"
        made = new_node(node.meta["module"], "Sum", inputs, name)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [made], node.outputs, made.outputs
        )
        count += 1
    log.info("separate sums: %d", count)
    return count
