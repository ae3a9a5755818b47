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
from sparsekit.runtime.sparse import native
from sparsekit.runtime.sparse.operators import gelu, layer_norm, quantize
from sparsekit.runtime.sparse.structure import Linear, Quantizer
from sparsekit.runtime.sparse.weights import INPUTS, UNITS, Form, compress, form_of, pack, steps

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, as cc")

# The functions of one vector, over arrays; and the sums of a Linear layer, all of its rows.
HEADERS = ("attention.h", "layer_norm.h", "linear.h", "thread_pool.h")
PROBE = """
long lanes(void) { return LANES; }
int multiplies_bytes(void) {
#ifdef PRODUCTS_OF_BYTES
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
/* x [4][vectors] as a tile of a tensor of four features, n vectors at a time. */
void keep_four(const quantizer *form, const vector *x, integers *kept, long vectors, long n) {
    columns to = {kept, 1, form};
    for (long v = 0; v + n <= vectors; v += n) {
        vector four[4][GROUP];
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < n; j++)
                four[i][j] = x[i * vectors + v + j];
        if (n == 4) keep(&to, kept, vectors, 0, v, four, 4);
        if (n == 2) keep(&to, kept, vectors, 0, v, four, 2);
        if (n == 1) keep(&to, kept, vectors, 0, v, four, 1);
    }
}
/* The sums of rows with x [inputs][width], which is kept here as the weight's form has it. */
void product_sums(long rows, long chunks, long form, const int32_t *pointers, const void *places,
                  const int32_t *values, const int32_t *starts, const vector *x, integers *kept,
                  long inputs, integers *sums, long width) {
    weight w = {rows, chunks, form, pointers, places, values, starts, 0, 0};
    quantizer how = {form, 1, 1, 0, 0, 255};
    columns to = {kept, inputs / 4, &how};
    for (long f = 0; f < inputs; f += 4)
        for (long v = 0; v < width; v++) {
            vector four[4][GROUP];
            for (int i = 0; i < 4; i++)
                four[i][0] = x[(f + i) * width + v];
            keep(&to, kept, width, f, v, four, 1);
        }
    for (long c = 0; c < chunks; c++)
        multiply(&w, c, 0, rows, kept + c * chunk_vectors(&w, width), sums, width);
}
/* Phases of which each adds up all that the phase before has written. */
enum { STEPS = 5, PIECES = 9 };
typedef struct {
    phase *phases;
    long (*table)[PIECES], members;
} additions;
static void add_up(const void *of, long seat) {
    const additions *a = of;
    member me = {a->phases, a->members, 0};
    (void)seat;
    for (long step = 0; step < STEPS; step++) {
        for (long i = claim(&me); i < PIECES; i = claim_next(&me)) {
            a->table[step][i] = 1;
            for (long j = 0; j < PIECES && step; j++)
                a->table[step][i] += a->table[step - 1][j];
        }
        settle(&me, PIECES);
    }
}
/* How many sums came out wrong, of so many jobs for a pool of threads. */
long wrong_sums(long threads, long jobs) {
    pool *p = start_pool(threads);
    long wrong = 0;
    for (long job = 0; job < jobs; job++) {
        phase phases[STEPS] = {0};
        long table[STEPS][PIECES] = {0}, expected = 1;
        additions a = {phases, table, threads};
        work_together(p, add_up, &a);
        for (long step = 0; step < STEPS; step++, expected = 1 + PIECES * expected)
            for (long i = 0; i < PIECES; i++)
                wrong += table[step][i] != expected;
        /* Long enough for threads to go to sleep. */
        for (long looks = 0; job % 97 == 0 && looks < 4 * LOOKS;)
            look_again(&looks);
    }
    stop_pool(p);
    return wrong;
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
    include = f"-I{files('sparsekit.kernels') / 'csrc' / 'encoder'}"
    command = [
        "cc",
        *FLAGS,
        *native.KERNEL.flags,
        include,
        "-Wno-unused",
        str(folder / "probe.c"),
        "-o",
    ]
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


class Rounding(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_long),
        *((name, ctypes.c_float) for name in ("scale", "inverse", "zero_point", "low", "high")),
    )


@pytest.fixture(scope="module")
def bytes_probe(probe: ctypes.CDLL) -> ctypes.CDLL:
    if not probe.multiplies_bytes():
        pytest.skip("this processor multiplies no bytes")
    return probe


def kept_bytes(
    probe: ctypes.CDLL, form: Form, x: np.ndarray, scale: np.float32, zero_point: int, n: int = 1
) -> np.ndarray:
    """x [4, vectors, lanes] as the C kernels keep it, from n vectors at a time."""
    vectors, lanes = x.shape[1:]
    given_ = aligned(x.shape)
    given_[:] = x
    kept = aligned((4 * vectors, 4 * lanes), np.uint8)
    how = Rounding(form, scale, 1 / scale, zero_point, 0, 255)
    sizes = ctypes.c_long(vectors), ctypes.c_long(n)
    probe.keep_four(ctypes.byref(how), pointer(given_), pointer(kept), *sizes)
    return kept


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), zero_point=st.integers(0, 255), exponent=st.integers(-8, 3))
def test_bytes_of_four_features(
    bytes_probe: ctypes.CDLL, seed: int, zero_point: int, exponent: int
) -> None:
    """Rounded as QuantizeLinear does, ties to even, which a scale of a power of two has."""
    random, lanes = np.random.default_rng(seed), bytes_probe.lanes()
    scale = np.float32(2.0**exponent)
    x = (random.integers(-600, 600, (4, 1, lanes)) * scale / 2).astype(np.float32)
    kept = kept_bytes(bytes_probe, Form.FOURS, x, scale, zero_point)[0].reshape(lanes, 4)
    expected = quantize(x[:, 0], np.asarray(scale), np.asarray(zero_point, np.uint8))
    assert np.array_equal(kept, expected.T)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), vectors=st.integers(1, 8), zero_point=st.integers(0, 255))
def test_bytes_of_one_feature(
    bytes_probe: ctypes.CDLL, seed: int, vectors: int, zero_point: int
) -> None:
    """Four vectors' bytes, four of each in turn; the same from one, two or four at a time."""
    random, lanes = np.random.default_rng(seed), bytes_probe.lanes()
    scale, groups = np.float32(0.25), (vectors + 3) // 4
    x = random.normal(0, 40, (4, vectors, lanes)).astype(np.float32)
    expected = np.zeros((4, 4 * groups, lanes), np.uint8)
    expected[:, :vectors] = quantize(x, np.asarray(scale), np.asarray(zero_point, np.uint8))
    in_turn = expected.reshape(4, groups, 4, lanes // 4, 4).transpose(0, 1, 3, 2, 4)
    # Behind the last vector anything may lie.
    there = np.broadcast_to(
        (np.arange(4 * groups) < vectors).reshape(groups, 1, 4, 1), in_turn.shape
    )
    for n in (1, 2, 4):
        if vectors % n:
            continue
        kept = kept_bytes(bytes_probe, Form.PLANES, x, scale, zero_point, n)[: 4 * groups]
        assert np.array_equal(kept.reshape(in_turn.shape)[there], in_turn[there])


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.sampled_from([4, 12, 400]),
    inputs=st.sampled_from([4, 60, 4 * UNITS, 4 * UNITS + 4, INPUTS, INPUTS + 4, 3 * INPUTS]),
    width=st.integers(1, 8),
    kept=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    form=st.sampled_from([Form.FOURS, Form.PLANES]),
)
def test_sums_of_bytes_are_exact(
    bytes_probe: ctypes.CDLL, seed: int, rows: int, inputs: int, width: int, kept: float, form: Form
) -> None:
    random, lanes = np.random.default_rng(seed), bytes_probe.lanes()
    weight = random.integers(-128, 128, (rows, inputs)).astype(np.int8)
    weight[random.random((rows, inputs)) >= kept] = 0
    x = aligned((inputs, width * lanes))
    x[:] = random.integers(0, 256, x.shape)
    packed = pack([quantized(weight, zero_point=100)], form)
    room = aligned((inputs * width * lanes,), np.int32)
    sums = aligned((rows, width * lanes), np.int32)
    sizes = [ctypes.c_long(size) for size in (rows, packed.chunks, form)]
    arrays = (packed.pointers, packed.places, packed.values, packed.starts, x, room)
    ends = ctypes.c_long(inputs), pointer(sums), ctypes.c_long(width)
    bytes_probe.product_sums(*sizes, *(pointer(array) for array in arrays), *ends)
    expected = weight.astype(np.int64) @ (x.astype(np.int64) - 100)
    assert np.array_equal(sums, expected)


def quantized(weight: np.ndarray, zero_point: int = 0) -> Linear:
    """A layer of int8 weights that reads uint8."""
    ones = np.ones(len(weight), np.float32)
    return Linear(weight, ones, 0 * ones, Quantizer(0.5, zero_point, np.dtype(np.uint8)))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_see_what_others_have_done(probe: ctypes.CDLL, threads: int) -> None:
    assert probe.wrong_sums(ctypes.c_long(threads), ctypes.c_long(3000)) == 0


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
    packed = pack([Linear(weight, None, np.zeros(4, np.float32), None)], Form.PLAIN)
    assert packed.places.tolist() == [2] * 4
    assert packed.values.view(np.float32).tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("zeros", "form"), [(0.0, Form.FOURS), (0.5, Form.FOURS), (0.8, Form.PLANES)]
)
def test_numbers_are_taken_one_by_one_where_most_are_zero(zeros: float, form: Form) -> None:
    random = np.random.default_rng(0)
    weight = random.integers(1, 128, (64, 256)).astype(np.int8)
    weight[random.random(weight.shape) < zeros] = 0
    assert form_of([quantized(weight)]) == form
    # Where the zeros come in fours there is nothing to gain from taking numbers one by one.
    in_fours = np.repeat(weight[:, ::4], 4, axis=1)
    assert form_of([quantized(in_fours)]) == Form.FOURS


def test_steps_end_with_their_row_and_chunk() -> None:
    weight = np.zeros((3, INPUTS + 2), np.int8)
    weight[0, 3:8], weight[2, INPUTS - 1], weight[2, INPUTS + 1] = [1, -2, 3, 4, 5], 6, -7
    pointers, places, values = steps(weight)
    assert pointers.tolist() == [[0, 2, 2, 3], [3, 3, 3, 4]]
    assert places.tolist() == [[3, 4, 5, 6], [7, 0, 0, 0], [INPUTS - 1, 0, 0, 0], [1, 0, 0, 0]]
    numbers = values.view(np.int8).reshape(-1, 4).tolist()
    assert numbers == [[1, -2, 3, 4], [5, 0, 0, 0], [6, 0, 0, 0], [-7, 0, 0, 0]]
