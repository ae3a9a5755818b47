"""The encoder's attention, for any lengths, masks and sizes of heads, against NumPy."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import pytest
from amx_builds import amx_flags, native_flags
from attention_reference import (
    FLOAT,
    HEADS,
    INT8,
    NO_DISTANCES,
    ROUNDED,
    Distances,
    dequantized,
    numpy_attention,
    random_distances,
)
from compiler import needs_compiler

from sparsekit.kernels.compiler import FLAGS
from sparsekit.kernels.sources import FLAGS as KERNEL_FLAGS
from sparsekit.runtime.sparse.c_structures import AttentionStruct, QuantizerStruct
from sparsekit.runtime.sparse.weights import Format, attention_has_tiles

pytestmark = needs_compiler

PROBE = """
#include "layers.h"
long lanes(void) { return LANES; }
int has_int8_dot_products(void) {
#ifdef INT8_DOT_PRODUCTS
    return 1;
#else
    return 0;
#endif
}
int has_amx(void) {
#ifdef HAS_AMX
    return allow_tiles();
#else
    return 0;
#endif
}
/* Stores x [features][vectors] in the quantizer's format. */
static void fill(columns *to, const vector *x, long vectors, const quantizer *rounding) {
    long features = to->units;
    *to = with_rounding(*to, rounding);
    for (long v = 0; v < vectors; v++)
        for (long f = 0; f < features; f += 4) {
            vector four[4][GROUP];
            for (int i = 0; i < 4; i++)
                four[i][0] = x[(f + i) * vectors + v];
            store(to, tile_data(to, v / TILE), tile_width(vectors, v / TILE), f, v % TILE, four, 1);
        }
}
/* operands: query, key and value [features][vectors]; out [features][vectors]. */
int attend_to(const attention *a, long count, const long *tokens, const float *masks, long length,
              const vector *operands, long vectors, vector *out, const float *distance_keys,
              const float *distance_queries, long stride, long center) {
    long features = a->heads * a->features, first = 0;
    encoder e = {.features = features, .attention_features = features, .intermediate_features = 4};
    long memory_size = 64 * (TILE + vectors) * (16 * features + 4096);
    integers *memory = aligned_alloc(64, memory_size);
    if (!memory)
        return 0;
    memset(memory, 0, memory_size);
    tensors t;
    integers *scratch = allocate_tensors(&t, &e, memory, vectors > TILE ? vectors : TILE);
    fill(&t.query, operands, vectors, &a->query);
    fill(&t.key, operands + features * vectors, vectors, &a->key);
    fill(&t.value, operands + 2 * features * vectors, vectors, &a->value);
    sequence sequences[TILE];
    for (long s = 0; s < count; s++) {
        sequences[s] = (sequence){first, tokens[s], s};
        first += vector_count(sequences + s);
    }
    score_terms terms = {.masks = masks, .length = length, .padded = length};
    if (stride) {
        terms.distance_keys = distance_keys, terms.distance_queries = distance_queries;
        terms.distance_stride = stride, terms.distance_center = center;
    }
    phase phases[1] = {0};
    worker self = {phases, 1, scratch};
    attention_heads(a, &terms, &t, vectors, vectors, sequences, count, 0, &t.context, &self);
    for (long v = 0; v < vectors; v++)
        for (long f = 0; f < features; f++)
            out[f * vectors + v] = *(const vector *)token_data(&t.context, vectors, f, v * LANES);
    free(memory);
    return 1;
}
"""


@pytest.fixture(scope="module", params=["vectors", "processor", "emulated"])
def probe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels of this processor's vectors, and those of AMX, on the processor or emulated."""
    instructions = native_flags() if request.param == "vectors" else amx_flags(request.param)
    folder = tmp_path_factory.mktemp("attention_probe")
    (folder / "probe.c").write_text(PROBE)
    include = f"-I{files('sparsekit.kernels') / 'csrc' / 'encoder'}"
    flags = [*FLAGS, *instructions, *KERNEL_FLAGS["encoder"], include, "-Wno-unused"]
    target = str(folder / "probe.so")
    subprocess.run(["cc", *flags, str(folder / "probe.c"), "-o", target], check=True)
    return ctypes.CDLL(target)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """A 64-byte aligned float32 array, as C's vectors require."""
    memory = np.zeros(4 * math.prod(shape) + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape)


def c_attention(
    probe: ctypes.CDLL,
    quantizers: Sequence[QuantizerStruct],
    features: int,
    texts: Sequence[np.ndarray],
    masks: np.ndarray,
    distances: Distances = NO_DISTANCES,
) -> list[np.ndarray]:
    """The output [tokens, all features] for each text, query, key and value [3, tokens, ...]."""
    lanes = probe.lanes()
    padded = [-(-text.shape[1] // lanes) * lanes for text in texts]
    operands, out = (
        aligned((3, HEADS * features, sum(padded))),
        aligned((HEADS * features, sum(padded))),
    )
    starts = np.cumsum([0, *padded])
    for text, start in zip(texts, starts, strict=False):
        operands[:, :, start : start + text.shape[1]] = text.transpose(0, 2, 1)
    formats = [Format(each.format) for each in quantizers]
    tiles = probe.has_amx() and attention_has_tiles(formats, features, distances.keys.size > 0)
    struct = AttentionStruct(HEADS, features, tiles, features**-0.5, *quantizers)
    tokens = np.array([text.shape[1] for text in texts])
    addresses = [ctypes.c_void_p(x.ctypes.data) for x in (tokens, masks, operands, out)]
    assert probe.attend_to(
        ctypes.byref(struct),
        ctypes.c_long(len(texts)),
        *addresses[:2],
        ctypes.c_long(masks.shape[1]),
        addresses[2],
        ctypes.c_long(sum(padded) // lanes),
        addresses[3],
        *(ctypes.c_void_p(x.ctypes.data) for x in (distances.keys, distances.queries)),
        ctypes.c_long(distances.keys.shape[1]),
        ctypes.c_long(distances.center),
    )
    return [out[:, i : i + n].T for i, n in zip(starts, tokens, strict=False)]


def lost_precision(
    probe: ctypes.CDLL, quantizers: Sequence[QuantizerStruct], features: int
) -> float:
    """How many times as large errors may be as those of products in float32: 1 without tiles.

    Those of bytes are exact.
    """
    formats = [Format(each.format) for each in quantizers]
    if not probe.has_amx() or formats[0] == Format.PACKED:
        return 1
    return 10 if attention_has_tiles(formats, features, False) else 1


# One text, or several whose vectors fit into a tile, which is smaller without AVX-512.
BATCHES = (
    [1],
    [3, 16, 17],
    [63],
    [64],
    [65],
    [128],
    [129],
    [250],
    [
        384,
    ],
    [511],
    [512],
)


@pytest.mark.parametrize("features", [32, 48, 64, 80, 28])
@pytest.mark.parametrize("quantizers", [FLOAT, ROUNDED, INT8], ids=["float32", "rounded", "int8"])
def test_attention_is_exact(
    probe: ctypes.CDLL, quantizers: list[QuantizerStruct], features: int
) -> None:
    if quantizers is INT8 and not probe.has_int8_dot_products():
        pytest.skip("this processor has no int8 dot products")
    loss = lost_precision(probe, quantizers, features)
    random = np.random.default_rng(features)
    for lengths in BATCHES:
        texts = [
            random.normal(0, 1.5, (3, n, HEADS * features)).astype(np.float32) for n in lengths
        ]
        masks = np.zeros((len(lengths), max(lengths)), np.float32)
        for mask, tokens in zip(masks, lengths, strict=True):
            mask[: tokens // 3] = np.finfo(np.float32).min  # padding on the left
            mask[random.random(len(mask)) < 0.1] = -10000
        actual = c_attention(probe, quantizers, features, texts, masks)
        for text, mask, result in zip(texts, masks, actual, strict=True):
            expected = numpy_attention(quantizers, features, text, mask[: text.shape[1]])
            difference = np.abs(result - expected)
            # A probability between two integers may be rounded to the other one.
            limit = 1e-5 * loss if quantizers is FLOAT else 6 / 255 * 6.4
            assert difference.max() < limit, lengths
            mean = 1e-6 if quantizers is FLOAT else 2e-5
            assert np.mean(difference) < mean * loss, lengths


@pytest.mark.parametrize("features", [32, 28])
def test_positions_are_compared_with_query_and_key(probe: ctypes.CDLL, features: int) -> None:
    """At each distance, and at no other: those of other tokens are NaN."""
    random = np.random.default_rng(features)
    for lengths in BATCHES:
        texts = [
            random.normal(0, 0.5, (3, n, HEADS * features)).astype(np.float32) for n in lengths
        ]
        distances = random_distances(random, features, max(lengths))
        masks = np.zeros((len(lengths), max(lengths)), np.float32)
        masks[:, 1 : max(lengths) // 3] = np.finfo(np.float32).min
        actual = c_attention(probe, FLOAT, features, texts, masks, distances)
        for text, mask, result in zip(texts, masks, actual, strict=True):
            expected = numpy_attention(FLOAT, features, text, mask[: text.shape[1]], distances)
            np.testing.assert_allclose(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("quantizers", [FLOAT, INT8], ids=["float32", "int8"])
@pytest.mark.parametrize("mask", [0.0, float(np.finfo(np.float32).min), -np.inf])
def test_all_keys_alike_are_averaged(
    probe: ctypes.CDLL, quantizers: list[QuantizerStruct], mask: float
) -> None:
    """Also where all of them are masked; the integers of their products are exact."""
    if quantizers is INT8 and not probe.has_int8_dot_products():
        pytest.skip("this processor has no int8 dot products")
    for tokens in (5, 255):
        text = np.random.default_rng(0).normal(0, 1.5, (3, tokens, HEADS * 32)).astype(np.float32)
        text[1] = text[1, 0]
        masks = np.full((1, tokens), mask, np.float32)
        (actual,) = c_attention(probe, quantizers, 32, [text], masks)
        value = dequantized(text[2], quantizers[3]).astype(np.float64)
        expected = np.tile(value.mean(axis=0), (tokens, 1))
        limit = 1e-6 * lost_precision(probe, quantizers, 32)
        np.testing.assert_allclose(actual, expected, atol=limit)


def test_late_large_scores_win(probe: ctypes.CDLL) -> None:
    """Each block of keys has larger scores than all before it, up to e^80 times as large."""
    tokens, features = 512, 32
    text = np.random.default_rng(1).normal(0, 1, (3, tokens, HEADS * features)).astype(np.float32)
    text[1] = np.linspace(-40, 40, tokens)[:, None] / features**0.5
    text[0] = 1
    masks = np.zeros((1, tokens), np.float32)
    (actual,) = c_attention(probe, FLOAT, features, [text], masks)
    expected = numpy_attention(FLOAT, features, text, masks[0])
    limit = 2e-5 * lost_precision(probe, FLOAT, features)
    np.testing.assert_allclose(actual, expected, atol=limit)
