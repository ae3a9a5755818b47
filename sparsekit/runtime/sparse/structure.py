"""The layers of a BERT encoder as arrays, independent of the ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsekit.runtime.sparse.graph import Array
from sparsekit.runtime.sparse.inference import Known, Shapes


@dataclass(frozen=True)
class Quantizer:
    """x is quantized to (q - zero_point) * scale, with q within the limits of `dtype`."""

    scale: float
    zero_point: int
    dtype: np.dtype[np.integer]


@dataclass(frozen=True, eq=False)
class Linear:
    """weight [out, in]: float32, or int8 with `scale` [out]; bias [out].

    inputs: quantizer of its input; name: name of its MatMul node, for messages.
    """

    weight: Array
    scale: Array | None
    bias: Array
    inputs: Quantizer | None
    name: str


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm over features: weight and bias [features]; `name` is its last node's.

    centered: whether the mean is subtracted, as in LayerNorm; without, it is the norm by the root
        mean square (RMSNorm, arXiv:1910.07467).
    """

    weight: Array
    bias: Array
    epsilon: float
    name: str
    centered: bool = True


@dataclass(frozen=True, eq=False)
class Positions:
    """Keys and queries of relative positions (disentangled attention, arXiv:2006.03654).

    keys, queries: [heads, rows, head_features].
    key_rows, query_rows: names of tensors of the graph, the rows for each query and key, and for
        each key and query, [1, length, length].
    A model may have either of both; the other is None.
    """

    keys: Array | None
    queries: Array | None
    key_rows: str | None
    query_rows: str | None


@dataclass(frozen=True, eq=False)
class Attention:
    """softmax(query x key * scale + terms) x value, with one or more heads.

    operands: quantizers of query, key, probabilities and value.
    positions: where they are compared with query and key too:
        (query x key + query x position key + key x position query) * scale.
    """

    query: Linear
    key: Linear
    value: Linear
    head_features: int
    scale: float
    operands: tuple[Quantizer | None, Quantizer | None, Quantizer | None, Quantizer | None]
    positions: Positions | None = None

    @property
    def has_value_apart(self) -> bool:
        """Whether the value's input is quantized differently from that of query and key."""
        query, value = self.query, self.value
        return (query.inputs, query.scale is None) != (value.inputs, value.scale is None)


@dataclass(frozen=True)
class Terms:
    """What attention reads besides activations, as names of tensors of the graph.

    added: what is added to the scores: masks [batch, 1, 1, length], or terms of pairs of tokens
        [batch or 1, heads or 1, length, length].
    rotation: the cosines and sines [1, 1, length, head_features] that rotate query and key, if any.
    excluded: whether a query does not read a key, bool [batch, 1, length, length], if any.
    """

    added: frozenset[str]
    rotation: tuple[str, str] | None
    excluded: str | None = None

    @property
    def names(self) -> list[str]:
        """All of them, in a fixed order."""
        excluded = () if self.excluded is None else (self.excluded,)
        return [*sorted(self.added), *(self.rotation or ()), *excluded]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of the encoder.

    intermediate: where it is gated, rows are alternately four of the gate, which the activation is
        applied to, and four that it is multiplied by.
    output_norm: where layers normalize their inputs, that of the next layer, or the encoder's last.
    attention, terms: None where it has no heads; intermediate, activation: None where the
        feed-forward layer has no neurons. The Linear layer behind is then a bias alone: its weight
        is [out, 0].
    """

    attention: Attention | None
    attention_output: Linear
    attention_norm: Norm
    intermediate: Linear | None
    activation: str | None
    gated: bool
    output: Linear
    output_norm: Norm
    terms: Terms | None


@dataclass(frozen=True, eq=False)
class Encoder:
    """The layers in order, and names of tensors of the graph.

    pre_norm: whether layers normalize their inputs; input_norm: then the norm of the first one's,
        None where it reads the hidden state itself.
    source: the hidden state before the first layer.
    output: the encoder's output for the first token [batch, features], or for all [batch, length,
        features] where `all_tokens`.
    heads: for each layer, query, key and value [batch, length, heads, head_features], of which the
        last two are missing where several heads of the query share one.
    context: for each layer, its attention's result [batch, length, heads * head_features], which
        the attention output layer reads; both None where a layer has no heads.
    shapes: those that further tensors of attention must have for BATCH sequences of LENGTH tokens.
    repeated: types and shapes of tensors that are known to be constants, repeated.
    """

    layers: list[Layer]
    pre_norm: bool
    input_norm: Norm | None
    source: str
    output: str
    all_tokens: bool
    heads: list[tuple[str, ...] | None]
    context: list[str | None]
    shapes: Shapes
    repeated: dict[str, Known]
