"""The forms of the exported graph: each is the list of passes that lead to it, in order."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsekit.export.layers import Layers
from sparsekit.export.passes.activations import input_activations, output_activations
from sparsekit.export.passes.embeddings import embeddings
from sparsekit.export.passes.linears import linears
from sparsekit.export.passes.matmul_integer import matmul_integer
from sparsekit.export.passes.weights import weights

Pass = Callable[[ir.Model, Layers], int]

FORMS: dict[str, tuple[Pass, ...]] = {
    # QuantizeLinear and DequantizeLinear: for onnxruntime, OpenVINO, TensorRT.
    "qdq": (linears, embeddings, weights, input_activations, output_activations),
    # MatMulInteger, Cast, Mul: DeepSparse runs the other form several times slower.
    "deepsparse": (
        linears,
        embeddings,
        matmul_integer,
        weights,
        input_activations,
        output_activations,
    ),
}
