"""Decompose the operators that runtimes from before 2022 do not support.

    x --> LayerNormalization --> y   =>   ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add
    x --> Gelu --> y                 =>   Div, Erf, Add, Mul, Mul
    x, axes --> ReduceMean --> y     =>   ReduceMean with the axes as an attribute
    x --> Split --> y, z             =>   Split without num_outputs

torch exported these nodes then; DeepSparse and onnxruntime recognize and fuse them. The remaining
operators exist since opset 16, which the graph then declares.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsekit.errors import UserError
from sparsekit.onnx.graph import initializer, new_node, remove_unused
from sparsekit.onnx.layers import Layers

log = logging.getLogger(__name__)

# DeepSparse 1.8 reads IR 9 at most.
OPSET, IR_VERSION = 16, 8


def older_operators(model: ir.Model, layers: Layers) -> int:
    """Rewrite the graph in place; returns the number of decomposed nodes."""
    count = 0
    for node in list(model.graph):
        if node.op_type == "Split":
            _split_by_outputs(node)
        decompose = _DECOMPOSITIONS.get(node.op_type)
        if decompose is None:
            continue
        nodes = decompose(model, node)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], nodes, node.outputs[:1], nodes[-1].outputs
        )
        count += 1
    model.graph.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION
    remove_unused(model)
    log.info("older operators: %d nodes decomposed", count)
    return count


def _layer_norm(model: ir.Model, node: ir.Node) -> list[ir.Node]:
    values, weight, *others = node.inputs
    assert values is not None and weight is not None
    epsilon = node.attributes["epsilon"].as_float()
    add, nodes = _chain(model, node)
    mean = add("ReduceMean", [values], "mean", axes=[-1])
    centered = add("Sub", [values, mean], "centered")
    squares = add("Pow", [centered, _constant(model, 2.0, "two")], "squares")
    variance = add("ReduceMean", [squares], "variance", axes=[-1])
    stable = add("Add", [variance, _constant(model, epsilon, f"epsilon_{epsilon:g}")], "stable")
    deviation = add("Sqrt", [stable], "deviation")
    normal = add("Div", [centered, deviation], "normal")
    scaled = add("Mul", [normal, weight], "scaled")
    # ModernBERT's norms have no bias.
    for bias in filter(None, others):
        add("Add", [scaled, bias], "shifted")
    return nodes


def _gelu(model: ir.Model, node: ir.Node) -> list[ir.Node]:
    values = node.inputs[0]
    assert values is not None
    if "approximate" in node.attributes and node.attributes["approximate"].as_string() != "none":
        raise UserError(
            "export.form=deepsparse cannot express the tanh approximation of GELU; set "
            "export.form=qdq"
        )
    add, nodes = _chain(model, node)
    divided = add("Div", [values, _constant(model, math.sqrt(2), "sqrt_two")], "divided")
    share = add("Add", [add("Erf", [divided], "erf"), _constant(model, 1.0, "one")], "share")
    doubled = add("Mul", [values, share], "product")
    add("Mul", [doubled, _constant(model, 0.5, "half")], "halved")
    return nodes


def _reduction(model: ir.Model, node: ir.Node) -> list[ir.Node]:
    values, axes = (*node.inputs, None)[:2]
    assert values is not None
    attributes: dict[str, int | list[int]] = {"keepdims": node.attributes.get_int("keepdims", 1)}
    if axes is not None:
        if axes.const_value is None:
            raise UserError(
                f"export.form=deepsparse cannot express {node.op_type} {node.name!r} over axes "
                "that the graph computes; set export.form=qdq"
            )
        attributes["axes"] = [int(axis) for axis in axes.const_value.numpy().reshape(-1)]
    return [
        new_node(node.meta["module"], node.op_type, [values], f"{node.name}.older", **attributes)
    ]


def _split_by_outputs(node: ir.Node) -> None:
    """Without the attribute, an older Split makes as many equal parts as it has outputs."""
    count = node.attributes.pop("num_outputs", None)
    if count is None:
        return
    values = node.inputs[0]
    size = None
    if values is not None and values.shape is not None:
        size = values.shape[node.attributes.get_int("axis", 0)]
    if not isinstance(size, int) or size % count.as_int():
        raise UserError(
            f"export.form=deepsparse cannot express Split {node.name!r} of {size} values into "
            f"{count.as_int()} parts; set export.form=qdq"
        )


_DECOMPOSITIONS: dict[str, Callable[[ir.Model, ir.Node], list[ir.Node]]] = {
    "LayerNormalization": _layer_norm,
    "Gelu": _gelu,
    # ReduceSum has had its axes as an input for longer.
    **dict.fromkeys(
        (
            *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
            *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
        ),
        _reduction,
    ),
}


def _chain(model: ir.Model, node: ir.Node) -> tuple[Callable[..., ir.Value], list[ir.Node]]:
    """A function that creates nodes to replace `node`, and the list that it appends them to."""
    nodes: list[ir.Node] = []

    def add(op_type: str, inputs: list[ir.Value], name: str, **attributes: list[int]) -> ir.Value:
        made = new_node(node.meta["module"], op_type, inputs, f"{node.name}.{name}", **attributes)
        nodes.append(made)
        return made.outputs[0]

    return add, nodes


def _constant(model: ir.Model, value: float, name: str) -> ir.Value:
    """A scalar constant of the graph, created once."""
    return initializer(model, name, np.array(value, np.float32))
