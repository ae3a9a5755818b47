"""The layers of a BERT encoder as arrays, independent of the ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsekit.runtime.sparse.graph import Array


@dataclass(frozen=True)
class Quantizer:
    """x is rounded to (q - zero_point) * scale, q within the limits of `dtype`."""

    scale: float
    zero_point: int
    dtype: np.dtype[np.integer]


@dataclass(frozen=True, eq=False)
class Linear:
    """weight [out, in]: float32, or int8 with its `scale` [out]; bias [out].

    inputs: how its input is quantized; name: of its MatMul node, for messages.
    """

    weight: Array
    scale: Array | None
    bias: Array
    inputs: Quantizer | None
    name: str


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNormalization over features: weight [features], bias [features]; name: its node's."""

    weight: Array
    bias: Array
    epsilon: float
    name: str


@dataclass(frozen=True, eq=False)
class Attention:
    """softmax(query x key * scale + mask) x value; `operands`: how query, key, probabilities and
    value are rounded."""

    query: Linear
    key: Linear
    value: Linear
    head_features: int
    scale: float
    operands: tuple[Quantizer | None, Quantizer | None, Quantizer | None, Quantizer | None]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of the encoder."""

    attention: Attention
    attention_output: Linear
    attention_norm: Norm
    intermediate: Linear
    activation: str
    output: Linear
    output_norm: Norm


@dataclass(frozen=True, eq=False)
class Encoder:
    """Layers, first to last, between the tensors of these names; `mask` is added to scores.

    heads: of each layer, the names of query, key and value [batch, length, heads, head_features];
    joined: of each layer, the name of the attention output [batch, length, features].
    """

    layers: list[Layer]
    source: str
    mask: str
    first_token: str
    heads: list[tuple[str, str, str]]
    joined: list[str]
