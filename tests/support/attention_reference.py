"""Attention in NumPy, and the quantizers of its operands in each format of the C kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsekit.runtime.sparse.c_structures import QuantizerStruct
from sparsekit.runtime.sparse.operators import quantize
from sparsekit.runtime.sparse.weights import Format

HEADS = 2


def quantizer(
    format: Format, scale: float, zero_point: int, low: int, high: int
) -> QuantizerStruct:
    return QuantizerStruct(format, scale, 1 / scale, zero_point, low, high)


FLOAT = [quantizer(Format.FLOAT32, 1, 0, 0, 0)] * 4


def int8_operands(formats: Sequence[Format]) -> list[QuantizerStruct]:
    """Quantizers of query, key, probabilities and value, in these formats."""
    limits = [(0.03, 120, 0, 255), (0.04, -3, -128, 127), (1 / 255, 0, 0, 255)]
    pairs = zip(formats, [*limits, (0.05, 5, -128, 127)], strict=True)
    return [quantizer(format, *limit) for format, limit in pairs]


ROUNDED = int8_operands([Format.ROUNDED] * 4)
INT8 = int8_operands([Format.PACKED, Format.PACKED, Format.PACKED, Format.PLANES])


def dequantized(x: np.ndarray, rounding: QuantizerStruct) -> np.ndarray:
    if rounding.format == Format.FLOAT32:
        return x
    dtype = np.int8 if rounding.low < 0 else np.uint8
    zero_point = np.asarray(int(rounding.zero_point), dtype)
    integers = quantize(x.astype(np.float32), np.asarray(np.float32(rounding.scale)), zero_point)
    return (integers.astype(np.float64) - zero_point) * rounding.scale


@dataclass(frozen=True, eq=False)
class Distances:
    """keys, queries: [HEADS * features, stride], of which element `center` is the distance 0."""

    keys: np.ndarray
    queries: np.ndarray
    center: int


NO_DISTANCES = Distances(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32), 0)


def random_distances(random: np.random.Generator, features: int, length: int) -> Distances:
    """Those of texts of up to `length` tokens, padded to whole vectors, as the runtime makes them;
    distances that no query has are NaN."""
    padded = -(-length // 16) * 16
    shape = (2, HEADS * features, 2 * padded + 16)
    keys, queries = random.normal(0, 1.5, shape).astype(np.float32)
    keys[:, 2 * padded - 1 :] = queries[:, 2 * padded - 1 :] = np.nan
    return Distances(keys, queries, padded - 1)


def numpy_attention(
    quantizers: Sequence[QuantizerStruct],
    features: int,
    text: np.ndarray,
    mask: np.ndarray,
    distances: Distances = NO_DISTANCES,
) -> np.ndarray:
    query, key, value = (
        dequantized(x, rounding).reshape(len(x), HEADS, features).astype(np.float64)
        for x, rounding in zip(text, (quantizers[0], quantizers[1], quantizers[3]), strict=True)
    )
    scores = np.einsum("qhf,khf->hqk", query, key)
    if distances.keys.size:
        tokens = np.arange(len(query))
        index = tokens[:, None] - tokens + distances.center
        keys, queries = (
            x.reshape(HEADS, features, -1)[:, :, index] for x in (distances.keys, distances.queries)
        )
        scores += np.einsum("qhf,hfqk->hqk", query, keys)
        scores += np.einsum("khf,hfqk->hqk", key, queries)
    scores *= features**-0.5
    scores = scores.astype(np.float32) + mask  # rounds away small scores beside a large mask
    numerators = np.exp((scores - scores.max(axis=2, keepdims=True)).astype(np.float64))
    probabilities = numerators / numerators.sum(axis=2, keepdims=True)
    weights = dequantized(probabilities, quantizers[2])
    return np.einsum("hqk,khf->qhf", weights, value).reshape(len(value), -1)
