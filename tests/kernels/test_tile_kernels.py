"""The AMX kernels of runtime=sparse: on a processor that has AMX, and emulated in C on others."""

from __future__ import annotations

import ctypes
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
from sparse_graphs import texts, write_graph

from sparsekit.kernels.compiler import compile_kernel
from sparsekit.kernels.library import check_mirrors, library
from sparsekit.kernels.sources import FLAGS, sources
from sparsekit.kernels.variants import VARIANTS, runnable
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.sparse import native
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.runtime.sparse.structure import Linear, Quantizer
from sparsekit.runtime.sparse.weights import Format, attention_has_tiles, fastest_format, pack
from sparsekit.system import cpu_flags

AMX = next(variant for variant in VARIANTS if variant.name == "amx")
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, as cc")

# Graphs, the format of their weights, and whether the matmuls of attention use tiles: rotated
# queries and keys are multiplied as float32.
ENCODERS = [
    ("bert_tiles", Format.TILES, 1),
    ("modernbert_tiles", Format.TILES, 0),
    ("bert_wide_heads", Format.TILES, 1),
    ("bert_uneven_heads", Format.PACKED, 1),
]


@pytest.fixture(scope="module", params=["emulated", "processor"])
def tiles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The encoder's library with tiles."""
    header = Path(__file__).with_name("emulated_amx.h")
    # Without optimizations, which take a minute for vectors that no register holds.
    instructions = ("-march=native", "-O1", "-include", str(header))
    if request.param == "processor":
        if AMX not in runnable((cpu_flags() or "").split()):
            pytest.skip("this processor has no AMX")
        instructions = AMX.flags
    elif platform.machine() != "x86_64":
        pytest.skip("the instructions that the emulation builds on are those of x86-64")
    target = tmp_path_factory.mktemp("tiles") / "encoder.so"
    compile_kernel(["cc"], instructions, FLAGS["encoder"], sources("encoder"), target)
    return ctypes.CDLL(str(target))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoders with whole tiles of weights, one with gated layers, and of features of a head."""
    return {
        name: write_graph(
            tmp_path_factory.mktemp(name), name, sparsity=0.3, quantize_attention=bool(attention)
        )
        for name, _, attention in ENCODERS
    }


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weights", "attention"), ENCODERS)
def test_tiles_do_not_change_a_bit(
    tiles: ctypes.CDLL,
    graphs: dict[str, Path],
    name: str,
    weights: Format,
    attention: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "compiled", lambda: tiles)
    with monkeypatch.context() as patch:
        patch.setattr(
            native, "fastest_format", lambda linears, tiles, max_pair: fastest_format(linears)
        )
        patch.setattr(native, "attention_has_tiles", lambda formats, features: False)
        without = SparseRuntime(graphs[name], threads=1)
    layer = without._encoder._struct.layer[0]
    assert layer.intermediate.format == Format.PACKED and not layer.attention.tiles
    runtimes = [SparseRuntime(graphs[name], threads) for threads in (1, 3)]
    layer = runtimes[0]._encoder._struct.layer[0]
    assert layer.intermediate.format == layer.projection.format == weights
    assert layer.attention.tiles == attention
    assert layer.normalized.format == layer.input.format == Format.PACKED
    reference = OnnxRuntime(graphs[name], threads=1)
    for batch, length in ((1, 1), (1, 16), (1, 17), (1, 128), (1, 200), (3, 40), (32, 20)):
        inputs = texts(batch, length)
        expected = without.run(inputs)
        for runtime in runtimes:
            assert np.array_equal(runtime.run(inputs), expected), (batch, length)
        assert np.abs(expected - reference.run(inputs)).max() < 0.05


@pytest.mark.slow
def test_the_structures_are_those_of_python(tiles: ctypes.CDLL) -> None:
    assert tiles.has_int8_tiles() == 1
    check_mirrors(tiles, native.KERNEL)


def test_without_amx_there_are_no_tiles() -> None:
    if AMX in runnable((cpu_flags() or "").split()):
        pytest.skip("this processor has AMX")
    assert library(native.KERNEL).has_int8_tiles() == 0


def quantized(weight: np.ndarray) -> Linear:
    ones = np.ones(len(weight), np.float32)
    return Linear(weight, ones, 0 * ones, Quantizer(0.5, 3, np.dtype(np.uint8)), "layer")


@pytest.mark.parametrize(
    ("shape", "zeros", "format"),
    [
        ((64, 256), 0.0, Format.TILES),
        ((64, 256), 0.5, Format.TILES),
        ((64, 256), 0.9, Format.PLANES),
        ((60, 256), 0.0, Format.PACKED),
        ((64, 252), 0.0, Format.PACKED),
    ],
)
def test_tiles_are_for_dense_weights_of_whole_tiles(
    shape: tuple[int, int], zeros: float, format: Format
) -> None:
    random = np.random.default_rng(0)
    weight = random.integers(1, 128, shape).astype(np.int8)
    weight[random.random(shape) < zeros] = 0
    assert fastest_format([quantized(weight)], tiles=True) == format
    assert fastest_format([quantized(weight)]) != Format.TILES


@pytest.mark.parametrize(
    ("format", "features", "expected"),
    [
        (Format.PACKED, 32, True),
        (Format.PACKED, 64, True),
        (Format.PACKED, 28, False),
        (Format.ROUNDED, 64, False),
    ],
)
def test_heads_of_whole_tiles_are_multiplied_in_them(
    format: Format, features: int, expected: bool
) -> None:
    assert attention_has_tiles([format] * 3 + [Format.PLANES], features) is expected


def test_tiles_keep_the_inputs_of_an_output_together() -> None:
    weight = np.arange(32 * 128).reshape(32, 128).astype(np.int8)
    packed = pack([quantized(weight)], Format.TILES)
    assert (packed.rows, packed.chunks, packed.values.shape) == (32, 2, (2, 2, 16, 16))
    values = packed.values.view(np.int8)
    assert np.array_equal(values[1, 0, 5], weight[21, :64])
    assert np.array_equal(values[0, 1, 15], weight[15, 64:])
    assert packed.initial_sums.tolist() == (-3 * weight.sum(axis=1, dtype=np.int32)).tolist()
