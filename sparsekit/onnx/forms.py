"""The forms of the exported graph, each with its passes in order."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsekit.onnx.layers import Layers
from sparsekit.onnx.passes.activations import input_activations, output_activations
from sparsekit.onnx.passes.attention import attention_integers, attention_pairs
from sparsekit.onnx.passes.embeddings import embeddings
from sparsekit.onnx.passes.first_token import first_token
from sparsekit.onnx.passes.linears import linears
from sparsekit.onnx.passes.matmul_integer import matmul_integer
from sparsekit.onnx.passes.older_operators import older_operators
from sparsekit.onnx.passes.separate_sums import separate_sums
from sparsekit.onnx.passes.weights import weights

Pass = Callable[[ir.Model, Layers], int]

FORMS: dict[str, tuple[Pass, ...]] = {
    # QuantizeLinear and DequantizeLinear: for onnxruntime, OpenVINO, TensorRT.
    "qdq": (
        first_token,
        linears,
        embeddings,
        weights,
        input_activations,
        output_activations,
        attention_pairs,
        separate_sums,
    ),
    # MatMulInteger, Cast and Mul, and only operators that DeepSparse supports.
    "deepsparse": (
        first_token,
        linears,
        embeddings,
        matmul_integer,
        weights,
        input_activations,
        output_activations,
        attention_integers,
        older_operators,
    ),
}
