"""Write every Linear in one form, with its weight [in, out] named after its module.

    x --> MatMul --> Add                     x --> MatMul --> Add
             ^        ^            =>                 ^        ^
    W^T or Transpose(W)  b       <module>.weight_transposed    b

    x --> Gemm(transB=1) <-- W, b     =>     x --> Gemm --> Add       (inputs of rank 2)

A Gemm runs on integers only if its bias is int32, which would round the bias, so a separate Add
adds the bias. The node stays a Gemm, since onnxruntime would fuse MatMul and Add into one again.
"""

from __future__ import annotations

import logging

import onnx_ir as ir

from sparsekit.onnx.graph import MATMULS, initializer, layer_nodes, new_node, remove_unused
from sparsekit.onnx.layers import Layers

log = logging.getLogger(__name__)


def linears(model: ir.Model, layers: Layers) -> int:
    """Rewrite the graph in place; returns the number of Linear layers."""
    count = 0
    for node, layer in layer_nodes(model, layers, *MATMULS):
        name = f"{layer.name}.weight_transposed"
        weight = initializer(model, name, layer.weight.T.copy())
        if node.op_type == "MatMul":
            node.replace_input_with(1, weight)
        else:
            _split_gemm(model, node, weight)
        count += 1
    remove_unused(model)
    log.info("linears: %d written as one matmul and one sum", count)
    return count


def _split_gemm(model: ir.Model, gemm: ir.Node, weight: ir.Value) -> None:
    module: str = gemm.meta["module"]
    values = gemm.inputs[0]
    assert values is not None
    nodes = [new_node(module, "Gemm", [values, weight], f"{module}.product")]
    # torch's exporter omits a bias of zeros.
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if bias is not None:
        nodes.append(new_node(module, "Add", [nodes[0].outputs[0], bias], f"{module}.sum"))
    ir.convenience.replace_nodes_and_values(
        model.graph, gemm, [gemm], nodes, gemm.outputs, nodes[-1].outputs
    )
