"""Checks of the exported file: what it stores, and which matmuls onnxruntime runs on integers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor

from sparsekit.errors import UserError, first_line
from sparsekit.onnx.layers import Array, Layer, Layers
from sparsekit.onnx.trace import OPSET
from sparsekit.runtime.onnxruntime import OnnxRuntime

# The operators of onnxruntime that multiply integers.
INT8_MATMULS = {"MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm"}
# The suffix of weights that it converts to uint8, on CPUs without VNNI.
AS_UINT8 = "_s8_2_u8"
# Enough for names, nodes and index constants of 24 layers, without weights.
GRAPH_BYTES = 500_000


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What the file holds.

    The matmuls counted are those with a weight, and the quantized ones of attention.
    """

    int8_matmuls: int
    fp32_matmuls: int
    zero_fraction: float
    bytes: int
    bytes_compressed: int


def check_structure(
    file: Path, layers: Layers, other_bytes: int, counted: Iterable[str]
) -> Structure:
    """Check `file` against the layers of its model; raises UserError for the first failure.

    counted: names of the layers that `zero_fraction` covers, those of the transformer stack.
    """
    model = read_graph(file)
    check_form(file, model)
    stored = stored_arrays(model)
    check_weights(stored, layers)
    check_size(file, layers, other_bytes)
    linears = {layer.stored_name for layer in layers.values() if not layer.embedding}
    counted_operands = linears | layers.attention_operands
    int8 = int8_operands(file) & counted_operands
    check_int8(int8, layers.int8_operands)
    weights = [stored[layers[name].stored_name] for name in counted if name in layers]
    zeros = sum(int(np.count_nonzero(weight == 0)) for weight in weights)
    data = file.read_bytes()
    return Structure(
        int8_matmuls=len(int8),
        fp32_matmuls=len(counted_operands - int8),
        zero_fraction=zeros / max(sum(weight.size for weight in weights), 1),
        bytes=len(data),
        bytes_compressed=pa.compress(data, codec="zstd").size,
    )


def read_graph(file: Path) -> onnx.ModelProto:
    """The model in `file`; raises UserError where it cannot be read."""
    try:
        return onnx.load(file)
    except (OSError, DecodeError) as error:
        raise UserError(
            f"cannot read {file}: {first_line(error)}; the file may be cut short: export the run "
            "again: sparsekit export RUN"
        ) from error


def stored_arrays(model: onnx.ModelProto) -> dict[str, Array]:
    """The constants of the graph, by name."""
    return {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}


def check_form(file: Path, model: onnx.ModelProto) -> None:
    """Check that the file is valid ONNX of an opset that all runtimes read."""
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"check 'form' failed: {file.name} is not valid ONNX: {error}") from error
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.keys() != {""} or versions[""] > OPSET:
        raise UserError(
            f"check 'form' failed: {file.name} uses the opsets {versions}, it must be plain ONNX "
            f"{OPSET} at most; use the versions of constraints.txt"
        )


def check_weights(stored: dict[str, Array], layers: Layers) -> None:
    """Check that the file stores each weight as training left it, and zeros as zeros."""
    for layer in layers.values():
        array = stored.get(layer.stored_name)
        if array is None:
            raise UserError(
                f"check 'weights' failed: the file has no {layer.stored_name}; the exporter does "
                f"not support {layer.name}: leave it out of the recipe's quantization, or report it"
            )
        weight = layer.weight if layer.embedding else layer.weight.T
        _check_zeros(layer, weight, array)
        expected = layer.stored
        if array.dtype != expected.dtype or not np.array_equal(array, expected):
            raise UserError(
                f"check 'weights' failed: {layer.stored_name} is not the trained weight as "
                f"{expected.dtype}; export again from an untouched model/"
            )


def check_parameters(stored: dict[str, Array], state: Mapping[str, Tensor]) -> None:
    """Check the float32 parameters that keep their name in the file (biases, LayerNorm)."""
    for name in sorted(stored.keys() & state.keys()):
        if not np.array_equal(stored[name], state[name].float().numpy()):
            raise UserError(
                f"check 'weights' failed: {name} in the file differs from model/; one of them "
                "was changed: export again, or train again"
            )


def _check_zeros(layer: Layer, weight: Array, array: Array) -> None:
    zero = layer.storage.zero_point if layer.storage else np.float32(0)
    lost = int(np.count_nonzero((weight == 0) & (array != zero)))
    if lost:
        raise UserError(
            f"check 'zeros' failed: {lost} of the {np.count_nonzero(weight == 0)} zeros of "
            f"{layer.name} are not zero in the file; quantize weights symmetrically, so that 0 "
            "is represented exactly"
        )


def check_size(file: Path, layers: Layers, other_bytes: int) -> None:
    """Check that the file stores each weight once, in one byte per value where it is quantized.

    other_bytes: size of the model's other parameters (biases, LayerNorm).
    """
    weights = sum(layer.weight.size * (1 if layer.weights else 4) for layer in layers.values())
    limit = weights + other_bytes + GRAPH_BYTES
    size = file.stat().st_size
    if size > limit:
        raise UserError(
            f"check 'size' failed: {file.name} has {size} bytes, its weights account for {limit}; "
            "a weight is stored twice or not as int8: use the versions of constraints.txt"
        )


def check_int8(int8: set[str], expected: set[str]) -> None:
    """Check that every matmul that should run on integers does."""
    missing = sorted(expected - int8)
    if missing:
        raise UserError(
            f"check 'int8' failed: onnxruntime runs {len(expected) - len(missing)} of "
            f"{len(expected)} quantized matmuls on integers, not {', '.join(missing)}; use the "
            "onnxruntime of constraints.txt, or leave those layers out of the recipe's quantization"
        )


def int8_operands(file: Path) -> set[str]:
    """The names of the operands of matmuls that onnxruntime runs on integers.

    They are read from the optimized graph, so a fusion that does not happen is noticed.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        OnnxRuntime(file, threads=1, optimized=optimized)
        nodes = onnx.load(optimized).graph.node
    names = {name for node in nodes if node.op_type in INT8_MATMULS for name in node.input}
    return {name.removesuffix(AS_UINT8) for name in names}
