"""The encoder's kernels for ARM, cross-compiled and run by qemu, against NumPy.

apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from attention_reference import FLOAT, HEADS, INT8, ROUNDED, numpy_attention

import sparsekit.kernels
from sparsekit.kernels.sources import FLAGS
from sparsekit.runtime.sparse.c_structures import AttentionStruct
from sparsekit.runtime.sparse.operators import gelu
from sparsekit.runtime.sparse.structure import Linear, Quantizer
from sparsekit.runtime.sparse.weights import CHUNK_INPUTS, CHUNK_UNITS, Format, pack

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
MISSING = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"{' and '.join(MISSING)} are missing; see the docstring of this file"
    ),
]

CSRC = Path(sparsekit.kernels.__file__).parent / "csrc"
# The instructions to compile for, and a processor without any newer ones.
PROCESSORS = {
    "neon": ("armv8-a", "cortex-a72"),
    "dotprod": ("armv8.2-a+dotprod", "neoverse-n1"),
    "i8mm": ("armv8.6-a+i8mm", "max"),
}
Driver = Callable[..., bytes]


@pytest.fixture(scope="module", params=PROCESSORS)
def processor(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def driver(processor: str, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """Runs arm_driver.c on an emulated processor: the name of a function, and its arguments."""
    instructions, emulated = PROCESSORS[processor]
    program = tmp_path_factory.mktemp(processor) / "driver"
    source = Path(__file__).with_name("arm_driver.c")
    flags = ["-O2", f"-march={instructions}", "-static", "-Werror", f"-I{CSRC / 'encoder'}"]
    subprocess.run([COMPILER, *flags, str(source), "-o", str(program)], check=True)

    def run(function: str, *arguments: np.ndarray | bytes) -> bytes:
        data = [x if isinstance(x, bytes) else np.ascontiguousarray(x).tobytes() for x in arguments]
        stdin = b"".join(np.int64(len(x)).tobytes() + x for x in data)
        command = [EMULATOR, "-cpu", emulated, str(program), function]
        return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout

    return run


@pytest.fixture
def int8_driver(driver: Driver, processor: str) -> Driver:
    if processor == "neon":
        pytest.skip("NEON alone multiplies no bytes by fours")
    return driver


def test_the_units_are_used(driver: Driver, processor: str) -> None:
    assert driver("units") == (b"4 lanes" if processor == "neon" else b"4 lanes, int8")


@pytest.mark.parametrize("format", [Format.PACKED, Format.PLANES])
@pytest.mark.parametrize(
    ("rows", "inputs", "tokens", "density"),
    [
        (12, 4 * CHUNK_UNITS + 4, 32, 1.0),
        (40, CHUNK_INPUTS + 4, 32, 0.1),
        (4, 60, 4, 0.5),
        (8, 64, 20, 0.2),
        (4, 8, 12, 0.0),
    ],
)
def test_int8_sums_are_those_of_x86(
    int8_driver: Driver, format: Format, rows: int, inputs: int, tokens: int, density: float
) -> None:
    """To the bit: they are exact, as test_encoder_kernels.py shows for x86."""
    random = np.random.default_rng(inputs)
    weight = random.integers(-128, 128, (rows, inputs)).astype(np.int8)
    weight[random.random(weight.shape) >= density] = 0
    x = random.integers(0, 256, (inputs, tokens))
    x[:, 0], weight[0] = 255, np.where(weight[0] == 0, 0, -128)  # the largest products
    ones = np.ones(rows, np.float32)
    inputs_of = Quantizer(0.5, 100, np.dtype(np.uint8))
    packed = pack([Linear(weight, ones, 0 * ones, inputs_of, "layer")], format)
    sizes = np.array([rows, packed.chunks, format, inputs, tokens])
    arrays = (packed.pointers, packed.indices, packed.values, packed.initial_sums)
    result = int8_driver("matmul", sizes, *arrays, x.astype(np.float32))
    expected = weight.astype(np.int64) @ (x - 100)
    assert np.array_equal(np.frombuffer(result, np.int32).reshape(rows, tokens), expected)


@pytest.mark.parametrize("quantizers", [FLOAT, ROUNDED, INT8], ids=["float32", "rounded", "int8"])
@pytest.mark.parametrize(
    ("lengths", "features"), [([3, 16], 28), ([32], 64), ([33], 32), ([150], 48)], ids=str
)
def test_attention(
    driver: Driver, processor: str, quantizers: list, lengths: list[int], features: int
) -> None:
    if quantizers is INT8 and processor == "neon":
        pytest.skip("NEON alone multiplies no bytes by fours")
    random = np.random.default_rng(features)
    padded = [-(-tokens // 4) * 4 for tokens in lengths]
    starts = np.cumsum([0, *padded])
    operands = random.normal(0, 1.5, (3, HEADS * features, starts[-1])).astype(np.float32)
    masks = np.zeros((len(lengths), max(lengths)), np.float32)
    masks[:, : max(lengths) // 4] = np.finfo(np.float32).min
    struct = AttentionStruct(HEADS, features, features**-0.5, *quantizers)
    sizes = np.array([len(lengths), starts[-1], max(lengths)])
    tokens = np.array(lengths)
    result = driver("attention", bytes(struct), sizes, starts[:-1], tokens, masks, operands)
    out = np.frombuffer(result, np.float32).reshape(HEADS * features, -1)
    for start, n, mask in zip(starts, lengths, masks, strict=False):
        text = operands[:, :, start : start + n].transpose(0, 2, 1)
        expected = numpy_attention(quantizers, features, text, mask[:n])
        difference = np.abs(out[:, start : start + n].T - expected)
        # A probability between two integers may be rounded to the other one.
        assert difference.max() < (1e-5 if quantizers is FLOAT else 6 / 255 * 6.4)
        assert difference.mean() < (1e-6 if quantizers is FLOAT else 2e-5)


def test_functions(driver: Driver) -> None:
    x = np.linspace(-80, 5, 1 << 12).astype(np.float32)
    result = driver("functions", np.array([x.size]), x)
    exponentials, gelus = np.frombuffer(result, np.float32).reshape(-1, 2, 4).transpose(1, 0, 2)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(exponentials.ravel(), np.exp(np.minimum(exact, 0)), rtol=4e-7)
    np.testing.assert_allclose(gelus.ravel(), gelu(exact), atol=2e-6)


@pytest.mark.parametrize("folder", FLAGS)
def test_every_kernel_compiles(folder: str, tmp_path: Path) -> None:
    flags = [*FLAGS[folder], "-Wall", "-Wextra", "-Werror"]
    files = [str(file) for file in sorted((CSRC / folder).glob("*.c"))]
    command = [COMPILER, "-O1", "-fopenmp", "-fPIC", "-shared", *flags, *files, "-lm"]
    assert files
    subprocess.run([*command, "-o", str(tmp_path / "kernel.so")], check=True)
