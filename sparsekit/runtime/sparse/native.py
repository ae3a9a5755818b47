"""The C encoder: its structures, built from the layers of a graph, and calls of it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_long, c_void_p

import numpy as np
import numpy.typing as npt

from sparsekit.kernels.library import Kernel, library, variant
from sparsekit.runtime.sparse import structure
from sparsekit.runtime.sparse.c_structures import (
    STRUCTURES,
    AttentionStruct,
    EmbeddingStruct,
    EncoderStruct,
    LayerStruct,
    NormStruct,
    QuantizerStruct,
    ScoreTermsStruct,
    WeightStruct,
    address,
)
from sparsekit.runtime.sparse.graph import Array
from sparsekit.runtime.sparse.relative_positions import Distances
from sparsekit.runtime.sparse.score_terms import ScoreTerms, distinct_terms
from sparsekit.runtime.sparse.structure import (
    Layer,
    Linear,
    Norm,
    Positions,
    Quantizer,
)
from sparsekit.runtime.sparse.threads import Threads
from sparsekit.runtime.sparse.weights import (
    CHUNK_INPUTS,
    CHUNK_UNITS,
    Format,
    attention_has_tiles,
    fastest_format,
    operand_formats,
    pack,
)

KERNEL = Kernel(
    "encoder",
    structures=STRUCTURES,
    constants={"chunk_units": CHUNK_UNITS, "chunk_inputs": CHUNK_INPUTS},
)
# As in the C files.
VECTOR_BYTES = 64
GATED = 8
ACTIVATIONS = {None: 0, "gelu": 1, "relu": 2, "gelu_tanh": 3, "silu": 4}
# The formats of the inputs of weights, where they differ from those of the weights.
_INPUTS = {
    Format.FLOAT32: Format.ROUNDED,
    Format.TILES: Format.PACKED,
    Format.MASKED_TILES: Format.PACKED,
}


def compiled() -> ctypes.CDLL:
    """The loaded library of the encoder; raises KernelError where there is none."""
    return library(KERNEL)


class Encoder:
    """The layers of an encoder, packed for the C kernels."""

    def __init__(self, source: structure.Encoder, threads: int) -> None:
        layers = source.layers
        self._library = compiled()
        self.variant = variant().name
        self._threads = Threads(self._library, threads)
        self._library.workspace_vectors.restype = c_long
        self.dot_products = bool(self._library.has_int8_dot_products())
        self._max_pair: int | None = self._library.max_int8_pair() or None
        self.int8 = self.dot_products or self._max_pair is not None
        self.tiles = bool(self._library.has_amx())
        # The structures store addresses only: the arrays must live as long.
        self._arrays: list[Array] = []
        self._weights: dict[object, tuple[WeightStruct, Format, int]] = {}
        self._values = 0
        self._workspace = np.empty(0, np.uint8)
        self.features = len(layers[0].attention_output.bias)
        # The distinct terms of the layers, in the order in which `run` takes them.
        self.terms = distinct_terms(layers)
        # Those of the layers with relative positions, in the order in which `run` takes them.
        self.positions: list[Positions] = []
        # What the kernels' terms consist of: indices of `terms` and `positions`.
        self._terms: list[tuple[int, int | None]] = []
        array = (LayerStruct * len(layers))(*[self._layer(layer) for layer in layers])
        attentions = [len(x.attention.query.bias) for x in layers if x.attention is not None]
        self.all_tokens = source.all_tokens
        self._struct = EncoderStruct(
            len(layers),
            self.features,
            max(attentions, default=0),
            max(layer.output.weight.shape[1] for layer in layers),
            self._values,
            source.all_tokens,
            source.pre_norm,
            array,
        )

    def run(
        self,
        embedding: EmbeddingStruct,
        tokens: npt.NDArray[np.int64],
        terms: Sequence[ScoreTerms],
        distances: Sequence[Distances],
    ) -> npt.NDArray[np.float32]:
        """The last layer's output for the first token of each sequence, [batch, features].

        With `all_tokens` [batch, length, features], zeros for padding.

        tokens: [batch], the number of tokens of each sequence; the rest is padding.
        terms: the values of `self.terms`; distances: tables of `self.positions`.
        """
        batch, length = terms[0].masks.shape
        encoder, pool = ctypes.byref(self._struct), self._threads.pool
        vectors = self._library.workspace_vectors(encoder, c_long(length), pool)
        if self._workspace.nbytes < (vectors + 1) * VECTOR_BYTES:
            self._workspace = np.empty((vectors + 1) * VECTOR_BYTES, np.uint8)
        start = -self._workspace.ctypes.data % VECTOR_BYTES
        shape = (batch, length, self.features) if self.all_tokens else (batch, self.features)
        out = np.zeros(shape, np.float32)
        self._library.encode(
            encoder,
            ctypes.byref(embedding),
            c_long(batch),
            address(tokens),
            self._term_structs(terms, distances),
            address(out),
            address(self._workspace[start:]),
            pool,
        )
        return out

    def _term_structs(
        self, terms: Sequence[ScoreTerms], distances: Sequence[Distances]
    ) -> ctypes.Array[ScoreTermsStruct]:
        structs = [_score_terms(each) for each in terms]
        array = (ScoreTermsStruct * len(self._terms))()
        for i, (term, position) in enumerate(self._terms):
            array[i] = structs[term]
            if position is not None:
                table = distances[position]
                array[i].distance_keys = address(table.keys)
                array[i].distance_queries = address(table.queries)
                array[i].distance_stride = table.keys.shape[1]
                array[i].distance_center = table.center
        return array

    def _layer(self, layer: Layer) -> LayerStruct:
        a = layer.attention
        projection, inputs = WeightStruct(), quantizer_struct(None, Format.ROUNDED)
        intermediate, normalized, attention = projection, inputs, AttentionStruct()
        value, value_inputs = projection, inputs
        if a is not None:
            together = (a.query, a.key) if a.has_value_apart else (a.query, a.key, a.value)
            projection, inputs = self._weight(*together)
            if a.has_value_apart:
                value, value_inputs = self._weight(a.value)
            heads = len(a.query.bias) // a.head_features
            formats = operand_formats(a.operands, layer.terms, self.dot_products)
            operands = map(quantizer_struct, a.operands, formats)
            tiles = self.tiles and attention_has_tiles(
                formats, a.head_features, a.positions is not None
            )
            attention = AttentionStruct(heads, a.head_features, tiles, a.scale, *operands)
        attention_output, context = self._weight(layer.attention_output)
        if layer.intermediate is not None:
            intermediate, normalized = self._weight(layer.intermediate)
        output, activated = self._weight(layer.output)
        return LayerStruct(
            projection,
            value,
            attention_output,
            intermediate,
            output,
            inputs,
            value_inputs,
            context,
            normalized,
            activated,
            attention,
            self.norm(layer.attention_norm),
            self.norm(layer.output_norm),
            ACTIVATIONS[layer.activation] | (GATED if layer.gated else 0),
            self._terms_index(layer),
        )

    def _terms_index(self, layer: Layer) -> int:
        """The index of the terms of a layer among those that the kernels take."""
        if layer.attention is None or layer.terms is None:
            return 0
        position = None
        if layer.attention.positions is not None:
            position = len(self.positions)
            self.positions.append(layer.attention.positions)
        terms = (list(self.terms).index(layer.terms), position)
        if terms not in self._terms:
            self._terms.append(terms)
        return self._terms.index(terms)

    def _weight(self, *linears: Linear) -> tuple[WeightStruct, QuantizerStruct]:
        """The weights of layers with the same input, and the quantizer of that input.

        Layers that share their weights, as ALBERT's do, share the packed ones.
        """
        key = tuple(_identity(linear) for linear in linears)
        if key not in self._weights:
            self._weights[key] = self._pack(linears)
        weight, format, values = self._weights[key]
        self._values += values
        return weight, quantizer_struct(linears[0].inputs, format)

    def _pack(self, linears: Sequence[Linear]) -> tuple[WeightStruct, Format, int]:
        """The packed weights, the format of their input, and the number of their values."""
        format = Format.FLOAT32
        if self.int8:
            format = fastest_format(linears, self.tiles, self._max_pair)
        packed = pack(linears, format, self._max_pair)
        arrays = [packed.pointers, packed.indices, packed.values]
        arrays += [packed.initial_sums, packed.scales, packed.biases]
        addresses = [self.address(array) for array in arrays]
        inputs = _INPUTS.get(format, format)
        weight = WeightStruct(packed.rows, packed.chunks, packed.format, *addresses)
        # With tiles the work is that of as many values as one instruction replaces.
        tiles = format in (Format.TILES, Format.MASKED_TILES)
        values = packed.rows * packed.chunks if tiles else packed.values.size
        return weight, inputs, values

    def norm(self, norm: Norm) -> NormStruct:
        """The structure of a norm, whose arrays live as long as this encoder."""
        weight, bias = (self.address(x.astype(np.float32)) for x in (norm.weight, norm.bias))
        return NormStruct(weight, bias, norm.epsilon, norm.centered)

    def address(self, array: Array) -> c_void_p:
        """The address of an array, which stays valid as long as this encoder lives."""
        contiguous = np.ascontiguousarray(array)
        self._arrays.append(contiguous)
        return address(contiguous)


def _identity(linear: Linear) -> object:
    """What two layers with the same weights share: their arrays, and what is folded into those."""
    scale = None if linear.scale is None else linear.scale.ctypes.data
    weight = (linear.weight.ctypes.data, linear.weight.shape)
    return weight, scale, linear.bias.tobytes(), linear.inputs


def quantizer_struct(quantizer: Quantizer | None, format: Format) -> QuantizerStruct:
    if quantizer is None:
        return QuantizerStruct(Format.FLOAT32, 1, 1, 0, 0, 0)
    limits = np.iinfo(quantizer.dtype)
    inverse = np.float32(1) / np.float32(quantizer.scale)
    return QuantizerStruct(
        format, quantizer.scale, inverse, quantizer.zero_point, limits.min, limits.max
    )


def _score_terms(terms: ScoreTerms) -> ScoreTermsStruct:
    rows, heads, length, padded = (1, 1, *terms.masks.shape)
    if terms.pairs is not None:
        rows, heads, length, padded = terms.pairs.shape
    elif terms.rotation is not None:
        padded = terms.rotation[0].shape[1]
    pairs, cosines, sines = (
        None if array is None else address(array)
        for array in (terms.pairs, *(terms.rotation or (None, None)))
    )
    size = length * padded
    strides = (size * heads if rows > 1 else 0, size if heads > 1 else 0)
    return ScoreTermsStruct(
        address(terms.masks), pairs, cosines, sines, terms.masks.shape[1], padded, *strides
    )
