"""The C kernels of runtime=sparse, one by one, against numpy."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.kernels.compiler import FLAGS
from sparsekit.runtime.sparse.native import HEADERS
from sparsekit.runtime.sparse.operators import gelu, layer_norm, quantize
from sparsekit.runtime.sparse.structure import Linear, Quantizer
from sparsekit.runtime.sparse.weights import UNITS, compress, pack

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, as cc")

# The functions of one vector, over arrays; and the sums of a Linear layer, all of its rows.
PROBE = """
long lanes(void) { return LANES; }
int multiplies_bytes(void) {
#ifdef ADD_BYTES
    return 1;
#else
    return 0;
#endif
}
void exponentials(const vector *x, vector *y, long n) {
    for (long i = 0; i < n; i++) y[i] = exponential(x[i]);
}
void gelus(const vector *x, vector *y, long n) {
    for (long i = 0; i < n; i++) y[i] = gelu(x[i]);
}
void keep_four(const quantizer *form, const vector x[4], integers *kept) {
    columns to = {kept, 1, form};
    keep(&to, kept, 1, 0, 0, x);
}
void product_sums(long rows, long chunks, const int32_t *pointers, const uint8_t *places,
                  const int32_t *values, const int32_t *starts, const integers *x, integers *sums,
                  long width) {
    weight w = {rows, chunks, 1, pointers, places, values, starts, 0, 0};
    for (long c = 0; c < chunks; c++)
        multiply(&w, c, 0, rows, x + c * UNITS * width, sums, width);
}
void normalized(const float *weight, const float *bias, float epsilon, long features,
                const vector *x, vector *y, vector *kept) {
    norm how = {weight, bias, epsilon};
    quantizer plain = {PLAIN, 1, 1, 0, 0, 0};
    columns to = {(integers *)kept, features, &plain};
    normalize(&how, features, x, y, &to, (integers *)kept, 2, 0, 2);
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("probe")
    includes = "".join(f'#include "{header}"\n' for header in HEADERS)
    (folder / "probe.c").write_text(includes + PROBE)
    include = f"-I{files('sparsekit.kernels')}"
    command = ["cc", *FLAGS, include, "-Wno-unused", str(folder / "probe.c"), "-o"]
    subprocess.run([*command, str(folder / "probe.so")], check=True)
    return ctypes.CDLL(str(folder / "probe.so"))


def aligned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An array at a multiple of 64 bytes, as C's vectors are."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def mapped(probe: ctypes.CDLL, name: str, x: np.ndarray) -> np.ndarray:
    given_, out = aligned(x.shape), aligned(x.shape)
    given_[:] = x
    getattr(probe, name)(pointer(given_), pointer(out), ctypes.c_long(x.size // probe.lanes()))
    return out


def test_exponential(probe: ctypes.CDLL) -> None:
    x = np.linspace(-87, 0, 1 << 18).astype(np.float32)
    found = mapped(probe, "exponentials", x)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=4e-7)
    x[:3] = -100, -3.4e38, 0
    assert mapped(probe, "exponentials", x)[:2].max() < 2e-38
    assert mapped(probe, "exponentials", x)[2] == 1


def test_gelu(probe: ctypes.CDLL) -> None:
    x = np.concatenate([np.linspace(-8, 8, 1 << 16), [-1e30, 1e30, -50, 50] * 4])
    x = x.astype(np.float32)
    exact = gelu(x.astype(np.float64))
    found = mapped(probe, "gelus", x)
    assert np.abs(found - exact)[: 1 << 16].max() < 1.5e-6
    assert found[-1] == 50 and abs(found[-2]) < 1e-4
    near = np.abs(x) < 1
    np.testing.assert_allclose(found[near], exact[near], atol=3e-7)


class Form(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_long),
        *((name, ctypes.c_float) for name in ("scale", "inverse", "zero_point", "low", "high")),
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), zero_point=st.integers(0, 255), exponent=st.integers(-8, 3))
def test_bytes_of_four_features(
    probe: ctypes.CDLL, seed: int, zero_point: int, exponent: int
) -> None:
    """Rounded as QuantizeLinear does, ties to even, which a scale of a power of two has."""
    random = np.random.default_rng(seed)
    scale = np.float32(2.0**exponent)
    lanes = probe.lanes()
    x = aligned((4, lanes))
    x[:] = random.integers(-600, 600, (4, lanes)) * scale / 2
    kept = aligned((lanes, 4), np.uint8)
    form = Form(2, scale, 1 / scale, zero_point, 0, 255)
    probe.keep_four(ctypes.byref(form), pointer(x), pointer(kept))
    expected = quantize(x, np.asarray(scale), np.asarray(zero_point, np.uint8))
    assert np.array_equal(kept, expected.T)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.sampled_from([4, 12, 400]),
    inputs=st.sampled_from([4, 60, 4 * UNITS, 4 * UNITS + 4, 1024]),
    width=st.integers(1, 8),
    kept=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
)
def test_sums_of_bytes_are_exact(
    probe: ctypes.CDLL, seed: int, rows: int, inputs: int, width: int, kept: float
) -> None:
    if not probe.multiplies_bytes():
        pytest.skip("this processor multiplies no bytes")
    random, lanes = np.random.default_rng(seed), probe.lanes()
    weight = random.integers(-128, 128, (rows, inputs)).astype(np.int8)
    weight[random.random((rows, inputs)) >= kept] = 0
    x = random.integers(0, 256, (inputs, width * lanes)).astype(np.uint8)
    reads = Quantizer(0.5, 100, np.dtype(np.uint8))
    linear = Linear(weight, np.ones(rows, np.float32), np.zeros(rows, np.float32), reads)
    packed = pack([linear], in_bytes=True)
    laid_out = aligned((packed.chunks * UNITS, width, lanes, 4), np.uint8)
    laid_out[: inputs // 4] = x.reshape(-1, 4, width, lanes).transpose(0, 2, 3, 1)
    sums = aligned((rows, width * lanes), np.int32)
    arrays = (packed.pointers, packed.places, packed.values, packed.starts, laid_out, sums)
    sizes = (ctypes.c_long(rows), ctypes.c_long(packed.chunks))
    probe.product_sums(*sizes, *(pointer(array) for array in arrays), ctypes.c_long(width))
    expected = weight.astype(np.int64) @ (x.astype(np.int64) - 100)
    assert np.array_equal(sums, expected)


def test_layer_norm(probe: ctypes.CDLL) -> None:
    random = np.random.default_rng(0)
    features = 312
    x, y, kept = (aligned((features, 2 * probe.lanes())) for _ in range(3))
    x[:] = random.normal(3, 2, x.shape)
    weight, bias = random.normal(size=(2, features)).astype(np.float32)
    parts = (ctypes.c_float(1e-5), ctypes.c_long(features))
    probe.normalized(pointer(weight), pointer(bias), *parts, *map(pointer, (x, y, kept)))
    exact = layer_norm(x.T.astype(np.float64), weight, bias, epsilon=1e-5).T
    np.testing.assert_allclose(y, exact, atol=5e-6)
    assert np.array_equal(y, kept)


def test_zeros_are_left_out() -> None:
    units = np.zeros((3, 2 * UNITS + 2), np.int32)
    units[0, 0], units[2, UNITS - 1], units[2, UNITS], units[1, 2 * UNITS + 1] = 5, -6, 7, 8
    pointers, places, values = compress(units)
    assert pointers.tolist() == [[0, 1, 1, 2], [2, 2, 2, 3], [3, 3, 4, 4]]
    assert places.tolist() == [0, UNITS - 1, 0, 1]
    assert values.tolist() == [5, -6, 7, 8]


def test_minus_zero_is_left_out() -> None:
    weight = np.array([[0.0, -0.0, 1.0, 0.0]] * 4, np.float32)
    packed = pack([Linear(weight, None, np.zeros(4, np.float32), None)], in_bytes=False)
    assert packed.places.tolist() == [2] * 4
    assert packed.values.view(np.float32).tolist() == [1.0] * 4
