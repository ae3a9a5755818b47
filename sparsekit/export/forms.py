"""The forms of the exported graph: each is the list of passes that lead to it, in order."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsekit.export.layers import Layers
from sparsekit.export.passes.activations import input_activations, output_activations
from sparsekit.export.passes.attention import attention_integers, attention_pairs
from sparsekit.export.passes.embeddings import embeddings
from sparsekit.export.passes.first_token import first_token
from sparsekit.export.passes.linears import linears
from sparsekit.export.passes.matmul_integer import matmul_integer
from sparsekit.export.passes.older_operators import older_operators
from sparsekit.export.passes.separate_sums import separate_sums
from sparsekit.export.passes.weights import weights

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
    # MatMulInteger, Cast, Mul, and no operator newer than DeepSparse is.
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
