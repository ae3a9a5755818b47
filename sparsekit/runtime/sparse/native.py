"""The C encoder: its structures, filled from the layers of a graph, and its one call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_long, c_void_p

import numpy as np
import numpy.typing as npt

from sparsekit.kernels.library import Kernel, library
from sparsekit.runtime.sparse.c_structures import (
    STRUCTURES,
    AttentionStruct,
    EmbeddingStruct,
    EncoderStruct,
    LayerStruct,
    NormStruct,
    QuantizerStruct,
    TableStruct,
    WeightStruct,
)
from sparsekit.runtime.sparse.embeddings import Embedding
from sparsekit.runtime.sparse.graph import Array
from sparsekit.runtime.sparse.structure import Attention, Layer, Linear, Norm, Quantizer
from sparsekit.runtime.sparse.threads import Threads
from sparsekit.runtime.sparse.weights import INPUTS, UNITS, Form, form_of, pack

KERNEL = Kernel(
    "encoder",
    ("-fno-openmp", "-pthread"),  # It has threads of its own, see thread_pool.h.
    structures=STRUCTURES,
    constants={"chunk_units": UNITS, "chunk_inputs": INPUTS},
)
# As the C files have them.
VECTOR_BYTES = 64
ACTIVATIONS = {"Gelu": 1, "Relu": 2}
TABLES: dict[type, int] = {np.float32: 0, np.uint8: 1, np.int8: 2}


def compiled() -> ctypes.CDLL:
    """The kernels as a library; raises KernelError where it cannot be compiled."""
    return library(KERNEL)


class Encoder:
    """The layers of an encoder, packed for the C kernels."""

    def __init__(self, layers: Sequence[Layer], threads: int) -> None:
        self._library = compiled()
        self._threads = Threads(self._library, threads)
        self._library.workspace_vectors.restype = c_long
        self.in_bytes = bool(self._library.multiplies_bytes())
        self._kept: list[object] = []
        self._values = 0
        self._workspace = np.empty(0, np.uint8)
        self.features = len(layers[0].attended.bias)
        array = (LayerStruct * len(layers))(*[self._layer(layer) for layer in layers])
        widened = max(len(layer.widened.bias) for layer in layers)
        self._struct = EncoderStruct(len(layers), self.features, widened, self._values, array)

    def run(
        self,
        embedding: EmbeddingStruct,
        tokens: npt.NDArray[np.int64],
        mask: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        """The last layer's output for each row's first token, [batch, features].

        tokens [batch]: how many of a row's tokens count; mask [batch, length].
        """
        batch, length = mask.shape
        encoder, pool = ctypes.byref(self._struct), self._threads.pool
        vectors = self._library.workspace_vectors(encoder, c_long(length), pool)
        if self._workspace.nbytes < (vectors + 1) * VECTOR_BYTES:
            self._workspace = np.empty((vectors + 1) * VECTOR_BYTES, np.uint8)
        start = -self._workspace.ctypes.data % VECTOR_BYTES
        out = np.empty((batch, self.features), np.float32)
        self._library.encode(
            encoder,
            ctypes.byref(embedding),
            c_long(batch),
            _address(tokens),
            _address(mask),
            _address(out),
            _address(self._workspace[start:]),
            pool,
        )
        return out

    def _layer(self, layer: Layer) -> LayerStruct:
        a = layer.attention
        projection, reading = self._weight(a.query, a.key, a.value)
        attended, context = self._weight(layer.attended)
        widened, middle = self._weight(layer.widened)
        narrowed, active = self._weight(layer.narrowed)
        heads = len(a.query.bias) // a.head_features
        return LayerStruct(
            projection,
            attended,
            widened,
            narrowed,
            reading,
            context,
            middle,
            active,
            AttentionStruct(heads, a.head_features, a.scale, *self._operands(a)),
            self.norm(layer.first),
            self.norm(layer.second),
            ACTIVATIONS[layer.activation],
        )

    def _operands(self, attention: Attention) -> list[QuantizerStruct]:
        """How query, key, probabilities and value are kept: as bytes where all of them can be."""
        forms = [Form.ROUNDED] * 4
        kinds = [None if x is None else x.dtype.type for x in attention.operands]
        probabilities = attention.operands[2]
        # The processor multiplies unsigned bytes by signed ones. A zero point of probabilities
        # would have to be taken out of every sum.
        in_bytes = self.in_bytes and kinds == [np.uint8, np.int8, np.uint8, np.int8]
        if in_bytes and probabilities is not None and probabilities.zero_point == 0:
            forms = [Form.FOURS, Form.FOURS, Form.FOURS, Form.PLANES]
        return [_quantizer(x, form) for x, form in zip(attention.operands, forms, strict=True)]

    def _weight(self, *linears: Linear) -> tuple[WeightStruct, QuantizerStruct]:
        """The weights of layers that read one tensor, and how that tensor is kept for them."""
        packed = pack(linears, form_of(linears) if self.in_bytes else Form.PLAIN)
        self._values += len(packed.values)
        arrays = [packed.pointers, packed.places, packed.values]
        arrays += [packed.starts, packed.scales, packed.biases]
        addresses = [self.address(array) for array in arrays]
        kept = Form.ROUNDED if packed.form == Form.PLAIN else packed.form
        form = _quantizer(linears[0].inputs, kept)
        return WeightStruct(packed.rows, packed.chunks, packed.form, *addresses), form

    def norm(self, norm: Norm) -> NormStruct:
        """The structure of a LayerNorm, whose arrays live as long as this encoder."""
        weight, bias = (self.address(x.astype(np.float32)) for x in (norm.weight, norm.bias))
        return NormStruct(weight, bias, norm.epsilon)

    def address(self, array: Array) -> c_void_p:
        """Where an array lies that is kept as long as this encoder."""
        contiguous = np.ascontiguousarray(array)
        self._kept.append(contiguous)
        return _address(contiguous)


def _quantizer(rounding: Quantizer | None, kind: Form) -> QuantizerStruct:
    if rounding is None:
        return QuantizerStruct(Form.PLAIN, 1, 1, 0, 0, 0)
    limits = np.iinfo(rounding.dtype)
    inverse = np.float32(1) / np.float32(rounding.scale)
    return QuantizerStruct(
        kind, rounding.scale, inverse, rounding.zero_point, limits.min, limits.max
    )


def _address(array: Array) -> c_void_p:
    return c_void_p(array.ctypes.data)


class Embedded:
    """What the encoder begins with, as the C kernels read it.

    `found` None: the features come computed, [batch, length, features].
    """

    def __init__(self, encoder: Encoder, found: Embedding | None) -> None:
        self.struct = EmbeddingStruct(tables=1)
        self.struct.table[0].scale = 1
        if found is None:
            return
        self.struct.tables = len(found.tables)
        self.struct.after = encoder.norm(found.norm)
        for place, table in enumerate(found.tables):
            kind = TABLES[table.rows.dtype.type]
            rows = encoder.address(table.rows)
            self.struct.table[place] = TableStruct(kind, table.scale, table.zero_point, rows)

    def fill(self, arrays: Sequence[Array]) -> None:
        """The ids of each table, int64 [batch, length], or the features, for the next run."""
        self.struct.length = arrays[0].shape[1]
        self._arrays = arrays
        for place, array in enumerate(arrays):
            if array.dtype == np.int64:
                self.struct.table[place].ids = _address(array)
            else:
                self.struct.table[place].rows = _address(array)
