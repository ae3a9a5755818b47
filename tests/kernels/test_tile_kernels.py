"""The AMX kernels of runtime=sparse: on a processor that has AMX, and emulated in C on others."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from amx_builds import HAS_AMX, amx_flags
from compiler import needs_compiler
from sparse_graphs import texts, write_graph

from sparsekit.kernels.compiler import compile_kernel
from sparsekit.kernels.library import check_mirrors, library
from sparsekit.kernels.sources import FLAGS, sources
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.sparse import native
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.runtime.sparse.structure import Linear, Quantizer
from sparsekit.runtime.sparse.weights import Format, attention_has_tiles, fastest_format, pack

pytestmark = needs_compiler

# Graphs, their share of zeros, the format of their weights, and whether attention is quantized.
ENCODERS = [
    ("bert_tiles", 0.3, Format.TILES, True),
    ("bert_tiles", 0.7, Format.MASKED_TILES, True),
    ("bert_tiles", 0.7, Format.MASKED_TILES, False),
    ("bert_long_rows", 0.7, Format.MASKED_TILES, True),
    ("modernbert_tiles", 0.3, Format.TILES, False),
    ("modernbert_tiles", 0.7, Format.MASKED_TILES, False),
    ("bert_wide_heads", 0.3, Format.TILES, True),
    ("bert_uneven_heads", 0.3, Format.PACKED, True),
]


@pytest.fixture(scope="module", params=["emulated", "processor"])
def tiles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The encoder's library with tiles."""
    target = tmp_path_factory.mktemp("tiles") / "encoder.so"
    flags = amx_flags(request.param)
    compile_kernel(["cc"], flags, FLAGS["encoder"], sources("encoder"), target)
    return ctypes.CDLL(str(target))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, float, bool], Path]:
    """Encoders with whole tiles of weights, one with gated layers, and of features of a head."""
    return {
        (name, zeros, attention): write_graph(
            tmp_path_factory.mktemp(name), name, sparsity=zeros, quantize_attention=attention
        )
        for name, zeros, _, attention in ENCODERS
    }


@pytest.mark.slow
@pytest.mark.parametrize(("name", "zeros", "weights", "attention"), ENCODERS)
def test_tiles_compute_the_same(
    tiles: ctypes.CDLL,
    graphs: dict[tuple[str, float, bool], Path],
    name: str,
    zeros: float,
    weights: Format,
    attention: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "compiled", lambda: tiles)
    graph = graphs[name, zeros, attention]
    with monkeypatch.context() as patch:
        patch.setattr(
            native, "fastest_format", lambda linears, tiles, max_pair: fastest_format(linears)
        )
        patch.setattr(native, "attention_has_tiles", lambda *operands: False)
        without = SparseRuntime(graph, threads=1)
    layer = without._encoder._struct.layer[0]
    assert layer.intermediate.format == (Format.PLANES if zeros > 0.5 else Format.PACKED)
    assert not layer.attention.tiles
    runtimes = [SparseRuntime(graph, threads) for threads in (1, 3)]
    layer = runtimes[0]._encoder._struct.layer[0]
    assert layer.intermediate.format == layer.projection.format == weights
    assert layer.attention.tiles
    assert layer.normalized.format == layer.input.format == Format.PACKED
    reference = OnnxRuntime(graph, threads=1)
    for batch, length in ((1, 1), (1, 16), (1, 17), (1, 128), (1, 200), (3, 40), (32, 20)):
        inputs = texts(batch, length)
        expected = without.run(inputs)
        for runtime in runtimes:
            # In bf16 parts scores are not equal to the bit; what they change is rounded to int8.
            limit = 0 if attention else 0.05
            assert np.abs(runtime.run(inputs) - expected).max() <= limit, (batch, length)
        assert np.abs(expected - reference.run(inputs)).max() < 0.05


@pytest.mark.slow
def test_the_structures_are_those_of_python(tiles: ctypes.CDLL) -> None:
    assert tiles.has_amx() == 1
    check_mirrors(tiles, native.KERNEL)


def test_without_amx_there_are_no_tiles() -> None:
    if HAS_AMX:
        pytest.skip("this processor has AMX")
    assert library(native.KERNEL).has_amx() == 0


def quantized(weight: np.ndarray) -> Linear:
    ones = np.ones(len(weight), np.float32)
    return Linear(weight, ones, 0 * ones, Quantizer(0.5, 3, np.dtype(np.uint8)), "layer")


@pytest.mark.parametrize(
    ("shape", "zeros", "format"),
    [
        ((64, 256), 0.0, Format.TILES),
        ((64, 256), 0.4, Format.TILES),
        ((64, 256), 0.6, Format.MASKED_TILES),
        ((48, 256), 0.6, Format.TILES),
        ((64, 256), 0.9, Format.MASKED_TILES),
        ((64, 256), 0.95, Format.PLANES),
        ((60, 256), 0.0, Format.PACKED),
        ((64, 252), 0.0, Format.PACKED),
    ],
)
def test_tiles_are_for_weights_of_whole_tiles_with_few_enough_zeros(
    shape: tuple[int, int], zeros: float, format: Format
) -> None:
    random = np.random.default_rng(0)
    weight = random.integers(1, 128, shape).astype(np.int8)
    weight[random.random(shape) < zeros] = 0
    assert fastest_format([quantized(weight)], tiles=True) == format
    assert fastest_format([quantized(weight)]) not in (Format.TILES, Format.MASKED_TILES)


@pytest.mark.parametrize(
    ("format", "features", "distances", "expected"),
    [
        (Format.PACKED, 32, False, True),
        (Format.PACKED, 48, False, True),
        (Format.PACKED, 28, False, False),
        (Format.ROUNDED, 64, False, True),
        (Format.ROUNDED, 48, False, False),
        (Format.ROUNDED, 64, True, False),
    ],
)
def test_heads_of_whole_tiles_are_multiplied_in_them(
    format: Format, features: int, distances: bool, expected: bool
) -> None:
    assert attention_has_tiles([format] * 4, features, distances) is expected


def test_tiles_keep_the_inputs_of_an_output_together() -> None:
    weight = np.arange(32 * 128).reshape(32, 128).astype(np.int8)
    packed = pack([quantized(weight)], Format.TILES)
    assert (packed.rows, packed.chunks, packed.values.shape) == (32, 2, (2, 2, 16, 16))
    values = packed.values.view(np.int8)
    assert np.array_equal(values[1, 0, 5], weight[21, :64])
    assert np.array_equal(values[0, 1, 15], weight[15, 64:])
    assert packed.initial_sums.tolist() == (-3 * weight.sum(axis=1, dtype=np.int32)).tolist()


def test_masked_tiles_keep_the_values_of_a_row_in_order() -> None:
    random = np.random.default_rng(0)
    weight = random.integers(1, 128, (64, 128)).astype(np.int8)
    weight[random.random(weight.shape) < 0.7] = 0
    packed = pack([quantized(weight)], Format.MASKED_TILES)
    assert (packed.rows, packed.chunks, packed.indices.shape) == (64, 2, (2, 2, 2, 16))
    assert packed.pointers.tolist() == [0, np.count_nonzero(weight[:32])]
    # The kernels read a vector from the last value on.
    assert packed.values.size == np.count_nonzero(weight) + 64
    restored, values = np.zeros_like(weight), iter(packed.values)
    for block, tile, half, row in np.ndindex(packed.indices.shape):
        for i in range(64):
            if int(packed.indices[block, tile, half, row]) >> i & 1:
                restored[32 * block + 16 * half + row, 64 * tile + i] = next(values)
    assert np.array_equal(restored, weight)
