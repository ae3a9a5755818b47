"""The C kernels of runtime=sparse, one by one, against NumPy."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections import deque
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from compiler import needs_compiler
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsekit.kernels.compiler import FLAGS
from sparsekit.kernels.sources import FLAGS as KERNEL_FLAGS
from sparsekit.kernels.variants import NATIVE
from sparsekit.runtime.sparse import native
from sparsekit.runtime.sparse.c_structures import QuantizerStruct
from sparsekit.runtime.sparse.operators import gelu, layer_norm, quantize
from sparsekit.runtime.sparse.pairs import ROWS_AT_ONCE
from sparsekit.runtime.sparse.structure import Linear, Quantizer
from sparsekit.runtime.sparse.weights import (
    CHUNK_INPUTS,
    CHUNK_UNITS,
    Format,
    compress,
    fastest_format,
    pack,
    steps,
)

pytestmark = needs_compiler

# Exports static functions of the headers: of vectors for whole arrays, and of all rows of a weight.
HEADERS = ("attention.h", "layer_norm.h", "linear.h", "thread_pool.h")
PROBE = """
long lanes(void) { return LANES; }
int has_int8_dot_products(void) {
#ifdef INT8_DOT_PRODUCTS
    return 1;
#else
    return 0;
#endif
}
int max_int8_pair(void) {
#ifdef INT8_PAIRS
    return MAX_PAIR;
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
void gelu_tanhs(const vector *x, vector *y, long n) {
    for (long i = 0; i < n; i++) y[i] = gelu_tanh(x[i]);
}
void silus(const vector *x, vector *y, long n) {
    for (long i = 0; i < n; i++) y[i] = silu(x[i]);
}
/* Stores x [4][vectors] as a tile of a tensor of four features, n vectors at a time. */
void store_four(const quantizer *rounding, const vector *x, integers *stored, long vectors,
                long n) {
    columns to = {stored, 1, rounding};
    for (long v = 0; v + n <= vectors; v += n) {
        vector four[4][GROUP];
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < n; j++)
                four[i][j] = x[i * vectors + v + j];
        if (n == 4) store(&to, stored, vectors, 0, v, four, 4);
        if (n == 2) store(&to, stored, vectors, 0, v, four, 2);
        if (n == 1) store(&to, stored, vectors, 0, v, four, 1);
    }
}
/* Stores x [inputs][width] in the weight's format, and multiplies it by the weight. */
void matmul_sums(long rows, long chunks, long format, const int32_t *pointers, const void *indices,
                 const int32_t *values, const int32_t *initial_sums, const vector *x,
                 integers *stored, long inputs, integers *sums, long width) {
    weight w = {rows, chunks, format, pointers, indices, values, initial_sums, 0, 0};
    quantizer params = {format, 1, 1, 0, 0, 255};
    columns to = {stored, inputs / 4, &params};
    for (long f = 0; f < inputs; f += 4)
        for (long v = 0; v < width; v++) {
            vector four[4][GROUP];
            for (int i = 0; i < 4; i++)
                four[i][0] = x[(f + i) * width + v];
            store(&to, stored, width, f, v, four, 1);
        }
    for (long c = 0; c < chunks; c++)
        multiply(&w, c, 0, rows, stored + c * chunk_vectors(&w, width), sums, width);
}
/* Phases that each add up everything the previous phase has written. */
enum { PHASES = 5, PIECES = 9 };
typedef struct {
    phase *phases;
    long (*table)[PIECES], workers;
} additions;
static void add_phases(const void *argument, long worker_index) {
    const additions *a = argument;
    worker self = {a->phases, a->workers, 0};
    (void)worker_index;
    for (long k = 0; k < PHASES; k++) {
        for (long i = claim_piece(&self); i < PIECES; i = complete_and_claim(&self)) {
            a->table[k][i] = 1;
            for (long j = 0; j < PIECES && k; j++)
                a->table[k][i] += a->table[k - 1][j];
        }
        finish_phase(&self, PIECES);
    }
}
/* The number of wrong sums in so many jobs of a thread pool. */
long count_wrong_sums(long threads, long jobs) {
    pool *p = start_pool(threads);
    long wrong = 0;
    for (long job = 0; job < jobs; job++) {
        phase phases[PHASES] = {0};
        long table[PHASES][PIECES] = {0}, expected = 1;
        additions a = {phases, table, threads};
        run_job(p, add_phases, &a);
        for (long k = 0; k < PHASES; k++, expected = 1 + PIECES * expected)
            for (long i = 0; i < PIECES; i++)
                wrong += table[k][i] != expected;
        /* Long enough for threads to fall asleep. */
        for (long spins = 0; job % 97 == 0 && spins < 4 * SPIN_LIMIT;)
            spin(&spins);
    }
    stop_pool(p);
    return wrong;
}
void normalized(const float *weight, const float *bias, float epsilon, long centered, long features,
                const vector *x, vector *y, vector *stored) {
    norm params = {weight, bias, epsilon, centered};
    quantizer float32 = {FLOAT32, 1, 1, 0, 0, 0};
    columns to = {(integers *)stored, features, &float32};
    normalize(&params, features, x, y, 0, &to, (integers *)stored, 2, 0, 2);
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("probe")
    includes = "".join(f'#include "{header}"\n' for header in HEADERS)
    (folder / "probe.c").write_text(includes + PROBE)
    include = f"-I{files('sparsekit.kernels') / 'csrc' / 'encoder'}"
    command = [
        "cc",
        *FLAGS,
        *NATIVE.flags,
        *KERNEL_FLAGS[native.KERNEL.folder],
        include,
        "-Wno-unused",
        str(folder / "probe.c"),
        "-o",
    ]
    subprocess.run([*command, str(folder / "probe.so")], check=True)
    return ctypes.CDLL(str(folder / "probe.so"))


def aligned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """A 64-byte aligned array, as C's vectors require."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def map_vectors(probe: ctypes.CDLL, name: str, x: np.ndarray) -> np.ndarray:
    source, out = aligned(x.shape), aligned(x.shape)
    source[:] = x
    getattr(probe, name)(pointer(source), pointer(out), ctypes.c_long(x.size // probe.lanes()))
    return out


def test_exponential(probe: ctypes.CDLL) -> None:
    x = np.linspace(-87, 0, 1 << 18).astype(np.float32)
    result = map_vectors(probe, "exponentials", x)
    np.testing.assert_allclose(result, np.exp(x.astype(np.float64)), rtol=4e-7)
    x[:3] = -100, -3.4e38, 0
    assert map_vectors(probe, "exponentials", x)[:2].max() < 2e-38
    assert map_vectors(probe, "exponentials", x)[2] == 1


def test_gelu(probe: ctypes.CDLL) -> None:
    x = np.concatenate([np.linspace(-8, 8, 1 << 16), [-1e30, 1e30, -50, 50] * 4])
    x = x.astype(np.float32)
    exact = gelu(x.astype(np.float64))
    result = map_vectors(probe, "gelus", x)
    assert np.abs(result - exact)[: 1 << 16].max() < 1.5e-6
    assert result[-1] == 50 and abs(result[-2]) < 4e-6
    near = np.abs(x) < 1
    np.testing.assert_allclose(result[near], exact[near], atol=3e-7)


@pytest.mark.parametrize("name", ["gelu_tanh", "silu"])
def test_activations_by_the_sigmoid(probe: ctypes.CDLL, name: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 1 << 16), [-1e30, 1e30, -50, 50] * 4])
    x = x.astype(np.float32)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        exact = gelu(wide, b"tanh") if name == "gelu_tanh" else wide / (1 + np.exp(-wide))
    result = map_vectors(probe, f"{name}s", x)
    np.testing.assert_allclose(result[: 1 << 16], exact[: 1 << 16], atol=1e-6, rtol=1e-6)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result[-4:], [0, 1e30, 0, 50], atol=1e-6)


@pytest.fixture(scope="module")
def bytes_probe(probe: ctypes.CDLL) -> ctypes.CDLL:
    if not probe.has_int8_dot_products() and not probe.max_int8_pair():
        pytest.skip("this processor multiplies no bytes")
    return probe


def stored_bytes(
    probe: ctypes.CDLL,
    format: Format,
    x: np.ndarray,
    scale: np.float32,
    zero_point: int,
    n: int = 1,
) -> np.ndarray:
    """x [4, vectors, lanes] as the C kernels store it, n vectors at a time."""
    vectors, lanes = x.shape[1:]
    source = aligned(x.shape)
    source[:] = x
    stored = aligned((4 * vectors, 4 * lanes), np.uint8)
    rounding = QuantizerStruct(format, scale, 1 / scale, zero_point, 0, 255)
    sizes = ctypes.c_long(vectors), ctypes.c_long(n)
    probe.store_four(ctypes.byref(rounding), pointer(source), pointer(stored), *sizes)
    return stored


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), zero_point=st.integers(0, 255), exponent=st.integers(-8, 3))
def test_packed_features(
    bytes_probe: ctypes.CDLL, seed: int, zero_point: int, exponent: int
) -> None:
    """Rounding is that of QuantizeLinear, also of ties, which a power of two as scale produces."""
    random, lanes = np.random.default_rng(seed), bytes_probe.lanes()
    scale = np.float32(2.0**exponent)
    x = (random.integers(-600, 600, (4, 1, lanes)) * scale / 2).astype(np.float32)
    stored = stored_bytes(bytes_probe, Format.PACKED, x, scale, zero_point)[0].reshape(lanes, 4)
    expected = quantize(x[:, 0], np.asarray(scale), np.asarray(zero_point, np.uint8))
    assert np.array_equal(stored, expected.T)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), vectors=st.integers(1, 8), zero_point=st.integers(0, 255))
def test_planes(bytes_probe: ctypes.CDLL, seed: int, vectors: int, zero_point: int) -> None:
    """Bytes of four vectors are interleaved by four, for one, two or four vectors at a time."""
    random, lanes = np.random.default_rng(seed), bytes_probe.lanes()
    scale, groups = np.float32(0.25), (vectors + 3) // 4
    x = random.normal(0, 40, (4, vectors, lanes)).astype(np.float32)
    expected = np.zeros((4, 4 * groups, lanes), np.uint8)
    expected[:, :vectors] = quantize(x, np.asarray(scale), np.asarray(zero_point, np.uint8))
    interleaved = expected.reshape(4, groups, 4, lanes // 4, 4).transpose(0, 1, 3, 2, 4)
    # Bytes after the last vector are undefined.
    valid = np.broadcast_to(
        (np.arange(4 * groups) < vectors).reshape(groups, 1, 4, 1), interleaved.shape
    )
    for n in (1, 2, 4):
        if vectors % n:
            continue
        stored = stored_bytes(bytes_probe, Format.PLANES, x, scale, zero_point, n)[: 4 * groups]
        assert np.array_equal(stored.reshape(interleaved.shape)[valid], interleaved[valid])


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    rows=st.sampled_from([4, 12, 400]),
    inputs=st.sampled_from(
        [
            4,
            60,
            4 * CHUNK_UNITS,
            4 * CHUNK_UNITS + 4,
            CHUNK_INPUTS,
            CHUNK_INPUTS + 4,
            3 * CHUNK_INPUTS,
        ]
    ),
    width=st.integers(1, 8),
    density=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    largest=st.sampled_from([30, 64, 65, 128]),
    format=st.sampled_from([Format.PACKED, Format.PLANES]),
)
def test_int8_sums_are_exact(
    bytes_probe: ctypes.CDLL,
    seed: int,
    rows: int,
    inputs: int,
    width: int,
    density: float,
    largest: int,
    format: Format,
) -> None:
    max_pair = bytes_probe.max_int8_pair() or None
    assume(max_pair is None or format == Format.PLANES)
    random, lanes = np.random.default_rng(seed), bytes_probe.lanes()
    weight = random.integers(-largest, min(largest, 127) + 1, (rows, inputs)).astype(np.int8)
    weight[random.random((rows, inputs)) >= density] = 0
    x = aligned((inputs, width * lanes))
    x[:] = random.integers(0, 256, x.shape)
    x[:, 0], weight[0] = 255, np.where(weight[0] == 0, 0, -largest)  # the largest products
    packed = pack([quantized(weight, zero_point=100)], format, max_pair)
    scratch = aligned((inputs * width * lanes,), np.int32)
    sums = aligned((rows, width * lanes), np.int32)
    sizes = [ctypes.c_long(size) for size in (rows, packed.chunks, format)]
    arrays = (packed.pointers, packed.indices, packed.values, packed.initial_sums, x, scratch)
    ends = ctypes.c_long(inputs), pointer(sums), ctypes.c_long(width)
    bytes_probe.matmul_sums(*sizes, *(pointer(array) for array in arrays), *ends)
    expected = weight.astype(np.int64) @ (x.astype(np.int64) - 100)
    assert np.array_equal(sums, expected)


def quantized(weight: np.ndarray, zero_point: int = 0) -> Linear:
    """A layer with int8 weights and a uint8 input."""
    ones = np.ones(len(weight), np.float32)
    return Linear(weight, ones, 0 * ones, Quantizer(0.5, zero_point, np.dtype(np.uint8)), "layer")


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_see_the_results_of_other_threads(probe: ctypes.CDLL, threads: int) -> None:
    assert probe.count_wrong_sums(ctypes.c_long(threads), ctypes.c_long(3000)) == 0


@pytest.mark.parametrize("centered", [True, False])
def test_norms(probe: ctypes.CDLL, centered: bool) -> None:
    random = np.random.default_rng(0)
    features = 312
    x, y, stored = (aligned((features, 2 * probe.lanes())) for _ in range(3))
    x[:] = random.normal(3, 2, x.shape)
    weight, bias = random.normal(size=(2, features)).astype(np.float32)
    parts = (ctypes.c_float(1e-5), ctypes.c_long(centered), ctypes.c_long(features))
    probe.normalized(pointer(weight), pointer(bias), *parts, *map(pointer, (x, y, stored)))
    rows = x.T.astype(np.float64)
    root_mean_square = np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)
    exact = (rows / root_mean_square * weight + bias).T
    if centered:
        exact = layer_norm(rows, weight, bias, epsilon=1e-5).T
    np.testing.assert_allclose(y, exact, atol=5e-6)
    assert np.array_equal(y, stored)


def test_zero_units_are_skipped() -> None:
    units = np.zeros((3, 2 * CHUNK_UNITS + 2), np.int32)
    units[0, 0], units[2, CHUNK_UNITS - 1], units[2, CHUNK_UNITS], units[1, 2 * CHUNK_UNITS + 1] = (
        5,
        -6,
        7,
        8,
    )
    pointers, indices, values = compress(units)
    assert pointers.tolist() == [[0, 1, 1, 2], [2, 2, 2, 3], [3, 3, 4, 4]]
    assert indices.tolist() == [0, CHUNK_UNITS - 1, 0, 1]
    assert values.tolist() == [5, -6, 7, 8]


def test_negative_zeros_are_skipped() -> None:
    weight = np.array([[0.0, -0.0, 1.0, 0.0]] * 4, np.float32)
    packed = pack([Linear(weight, None, np.zeros(4, np.float32), None, "layer")], Format.FLOAT32)
    assert packed.indices.tolist() == [2] * 4
    assert packed.values.view(np.float32).tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("zeros", "format"), [(0.0, Format.PACKED), (0.5, Format.PACKED), (0.8, Format.PLANES)]
)
def test_planes_are_used_where_most_values_are_zero(zeros: float, format: Format) -> None:
    random = np.random.default_rng(0)
    weight = random.integers(1, 128, (64, 256)).astype(np.int8)
    weight[random.random(weight.shape) < zeros] = 0
    assert fastest_format([quantized(weight)]) == format
    # Whole units of zeros are skipped in both formats.
    in_fours = np.repeat(weight[:, ::4], 4, axis=1)
    assert fastest_format([quantized(in_fours)]) == Format.PACKED


def test_steps_end_with_their_row_and_chunk() -> None:
    weight = np.zeros((3, CHUNK_INPUTS + 2), np.int8)
    weight[0, 3:8], weight[2, CHUNK_INPUTS - 1], weight[2, CHUNK_INPUTS + 1] = (
        [1, -2, 3, 4, 5],
        6,
        -7,
    )
    pointers, indices, values = steps(weight)
    assert pointers.tolist() == [[0, 2, 2, 3], [3, 3, 3, 4]]
    assert indices.tolist() == [
        [3, 4, 5, 6],
        [7, 0, 0, 0],
        [CHUNK_INPUTS - 1, 0, 0, 0],
        [1, 0, 0, 0],
    ]
    quads = values.view(np.int8).reshape(-1, 4).tolist()
    assert quads == [[1, -2, 3, 4], [5, 0, 0, 0], [6, 0, 0, 0], [-7, 0, 0, 0]]


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(
        st.sampled_from([1, 3, 6, ROWS_AT_ONCE + 1]),
        st.sampled_from([1, 2, 7, 40, CHUNK_INPUTS + 3]),
    ),
    deviation=st.sampled_from([5, 40, 80, 1000]),
    density=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
)
def test_pairs_of_steps(
    seed: int, shape: tuple[int, int], deviation: float, density: float
) -> None:
    """Every value is in one place, no pair exceeds the limit, and no fewer steps would do."""
    random, limit = np.random.default_rng(seed), 128
    weight = random.normal(0, deviation, shape).clip(-128, 127).astype(np.int8)
    weight[random.random(shape) >= density] = 0
    pointers, indices, values = steps(weight, limit)
    quads = values.view(np.int8).reshape(-1, 4).astype(np.int64)
    assert (np.abs(quads).reshape(-1, 2).sum(axis=1) <= limit).all()
    restored = np.zeros(shape, np.int64)
    for c, begins in enumerate(pointers):
        for row, (begin, end) in enumerate(pairwise(begins)):
            columns = c * CHUNK_INPUTS + indices[begin:end].astype(np.int64).ravel()
            np.add.at(restored[row], columns, quads[begin:end].ravel())
            chunk = weight[row, c * CHUNK_INPUTS : (c + 1) * CHUNK_INPUTS].astype(np.int64)
            assert end - begin == -(-fewest_pairs(np.abs(chunk[chunk != 0]), limit) // 2)
    assert np.array_equal(restored, weight)


def fewest_pairs(magnitudes: np.ndarray, limit: int) -> int:
    """How many pairs, or single values, whose sums are within the limit."""
    rest, pairs = deque(sorted(magnitudes, reverse=True)), 0
    while rest:
        largest = rest.popleft()
        if rest and largest + rest[-1] <= limit:
            rest.pop()
        pairs += 1
    return pairs


def test_pairs_need_few_more_steps() -> None:
    """Of normally distributed weights the largest tenth, as magnitude pruning leaves it."""
    random = np.random.default_rng(0)
    weight = random.normal(0, 30, (512, CHUNK_INPUTS)).clip(-128, 127).astype(np.int8)
    weight[np.abs(weight) < 50] = 0
    assert 0.08 < np.count_nonzero(weight) / weight.size < 0.12
    assert len(steps(weight, 128)[2]) < 1.1 * len(steps(weight)[2])


def test_values_of_pairs_are_always_planes() -> None:
    dense = np.full((64, 256), 100, np.int8)
    assert fastest_format([quantized(dense)], max_pair=128) == Format.PLANES
    not_quantized = Linear(np.ones((4, 4), np.float32), None, np.zeros(4, np.float32), None, "x")
    assert fastest_format([not_quantized], max_pair=128) == Format.FLOAT32
