"""Types and shapes of all tensors of a graph, inferred by ONNX's rules."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsekit.errors import UserError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto

# Unusual sizes, so that a constant that was written for another size is noticed.
BATCH, LENGTH = 10007, 1009
# Larger constants are weights, of which only the shape is needed.
SMALL = 1024
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

Shapes = dict[str, tuple[int, ...]]
# The type and the shape of a tensor.
Known = tuple[np.dtype[Any], tuple[int, ...]]


def check_model(model: ModelProto) -> None:
    """Raise UserError unless the graph is valid ONNX with the inputs of an encoder."""
    import onnx

    for value in model.graph.input:
        if value.name in {tensor.name for tensor in model.graph.initializer}:
            continue
        kind = value.type.tensor_type
        if value.name not in INPUTS or kind.elem_type != onnx.TensorProto.INT64:
            raise UserError(
                f"runtime=sparse cannot run a graph with the input {value.name!r} of this type; "
                f"it supports int64 tensors {', '.join(INPUTS)}"
            )
        if len(kind.shape.dim) != 2:
            raise UserError(
                f"runtime=sparse cannot run a graph whose input {value.name!r} has "
                f"{len(kind.shape.dim)} dimensions; it supports [batch, length]"
            )
    try:
        onnx.checker.check_model(_without_weights(model))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise UserError(
            f"the graph is not valid ONNX: {first_line(error)}; export the run again: "
            "sparsekit export RUN"
        ) from error


def infer_shapes(model: ModelProto, known: Mapping[str, Known]) -> Shapes:
    """The shape of each tensor for inputs of [BATCH, LENGTH], where ONNX can infer it.

    known: tensors of which it cannot.
    Raises UserError where types or shapes are inconsistent.
    """
    from onnx import helper, shape_inference

    source = _without_weights(model)
    for name, (dtype, shape) in known.items():
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        source.graph.value_info.append(helper.make_tensor_value_info(name, kind, shape))
    try:
        inferred = shape_inference.infer_shapes(
            source, check_type=True, strict_mode=True, data_prop=True
        )
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the graph's tensors have inconsistent shapes or types: "
            f"{' '.join(str(error).split())[:300]}; export the run again: sparsekit export RUN"
        ) from error
    shapes = {}
    for value in [*inferred.graph.value_info, *inferred.graph.output]:
        dimensions = value.type.tensor_type.shape.dim
        if all(dimension.HasField("dim_value") for dimension in dimensions):
            shapes[value.name] = tuple(dimension.dim_value for dimension in dimensions)
    return shapes


def _without_weights(model: ModelProto) -> ModelProto:
    """The model with its weights declared as inputs, so that they are not copied."""
    import onnx
    from onnx import helper

    source = model.graph
    names = {tensor.name for tensor in source.initializer}
    graph = onnx.GraphProto(name="graph", node=source.node)
    for tensor in source.initializer:
        if prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    for value in source.input:
        if value.name not in names:
            elements = value.type.tensor_type.elem_type
            graph.input.append(helper.make_tensor_value_info(value.name, elements, [BATCH, LENGTH]))
    for value in source.output:
        # Declared as [batch, labels]; the first stays a name, which agrees with BATCH.
        graph.output.append(value)
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, graph=graph
    )
