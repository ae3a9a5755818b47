"""The encoder's kernels for ARM, run by qemu, and for WebAssembly, run by Node, against NumPy.

apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user emscripten nodejs
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from attention_reference import (
    FLOAT,
    HEADS,
    INT8,
    NO_DISTANCES,
    ROUNDED,
    Distances,
    numpy_attention,
    random_distances,
)

import sparsekit.kernels
from sparsekit.kernels.sources import FLAGS
from sparsekit.runtime.sparse.c_structures import AttentionStruct, QuantizerStruct
from sparsekit.runtime.sparse.operators import gelu
from sparsekit.runtime.sparse.structure import Linear, Quantizer
from sparsekit.runtime.sparse.weights import CHUNK_INPUTS, CHUNK_UNITS, Format, pack

ARM_COMPILER = "aarch64-linux-gnu-gcc"
pytestmark = pytest.mark.slow

CSRC = Path(sparsekit.kernels.__file__).parent / "csrc"
DRIVER = Path(__file__).with_name("kernel_driver.c")
WASI = Path(__file__).parents[1] / "support" / "wasi.mjs"
Driver = Callable[..., bytes]


@dataclass(frozen=True)
class Target:
    """compile: the command that the source and the output follow; run: that the program follows.

    long: the type of C's long.
    """

    compile: tuple[str, ...]
    run: tuple[str, ...]
    long: type = ctypes.c_long


def arm(instructions: str, processor: str) -> Target:
    """The instructions to compile for, and a processor without any newer ones."""
    compiler = (ARM_COMPILER, f"-march={instructions}", "-static")
    return Target(compiler, ("qemu-aarch64", "-cpu", processor))


TARGETS = {
    "neon": arm("armv8-a", "cortex-a72"),
    "dotprod": arm("armv8.2-a+dotprod", "neoverse-n1"),
    "i8mm": arm("armv8.6-a+i8mm", "max"),
    "wasm": Target(
        ("emcc", "-msimd128", "-sSTANDALONE_WASM", "-sALLOW_MEMORY_GROWTH=1"),
        ("node", "--no-warnings", str(WASI)),
        ctypes.c_int32,
    ),
}


def skip_without(*tools: str) -> None:
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"{' and '.join(missing)} missing; see the docstring of this file")


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def driver(target: str, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """Runs kernel_driver.c on a target: the name of a function, and its arguments."""
    compile, run = TARGETS[target].compile, TARGETS[target].run
    skip_without(compile[0], run[0])
    program = tmp_path_factory.mktemp(target) / "driver.wasm"
    flags = ["-O2", "-Werror", f"-I{CSRC / 'encoder'}"]
    subprocess.run([*compile, *flags, str(DRIVER), "-o", str(program)], check=True)

    def call(function: str, *arguments: np.ndarray | bytes) -> bytes:
        data = [x if isinstance(x, bytes) else np.ascontiguousarray(x).tobytes() for x in arguments]
        stdin = b"".join(np.int64(len(x)).tobytes() + x for x in data)
        command = [*run, str(program), function]
        return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout

    return call


def as_in_c(struct: ctypes.Structure, target: str) -> bytes:
    """The bytes of a structure of numbers, with the target's type of long."""
    long = TARGETS[target].long
    if long is ctypes.c_long:
        return bytes(struct)
    # Of four bytes, as all other fields: nothing is padded.
    values = [(getattr(struct, name), type_) for name, type_ in struct._fields_]
    return b"".join(
        as_in_c(value, target)
        if isinstance(value, ctypes.Structure)
        else bytes((long if type_ is ctypes.c_long else type_)(value))
        for value, type_ in values
    )


@pytest.fixture
def int8_driver(driver: Driver, target: str) -> Driver:
    if target == "neon":
        pytest.skip("NEON alone multiplies no bytes by fours")
    return driver


def test_the_units_are_used(driver: Driver, target: str) -> None:
    assert driver("units") == (b"4 lanes" if target == "neon" else b"4 lanes, int8")


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
    driver: Driver, target: str, quantizers: list, lengths: list[int], features: int
) -> None:
    if quantizers is INT8 and target == "neon":
        pytest.skip("NEON alone multiplies no bytes by fours")
    check_attention(driver, target, quantizers, lengths, features, NO_DISTANCES)


@pytest.mark.parametrize(("lengths", "features"), [([3, 16], 28), ([33], 32), ([150], 48)], ids=str)
def test_attention_of_positions(
    driver: Driver, target: str, lengths: list[int], features: int
) -> None:
    distances = random_distances(np.random.default_rng(0), features, max(lengths))
    check_attention(driver, target, FLOAT, lengths, features, distances)


def check_attention(
    driver: Driver,
    target: str,
    quantizers: list[QuantizerStruct],
    lengths: list[int],
    features: int,
    distances: Distances,
) -> None:
    random = np.random.default_rng(features)
    padded = [-(-tokens // 4) * 4 for tokens in lengths]
    starts = np.cumsum([0, *padded])
    operands = random.normal(
        0, 0.5 if distances.keys.size else 1.5, (3, HEADS * features, starts[-1])
    ).astype(np.float32)
    masks = np.zeros((len(lengths), max(lengths)), np.float32)
    masks[:, : max(lengths) // 4] = np.finfo(np.float32).min
    struct = AttentionStruct(HEADS, features, 0, features**-0.5, *quantizers)
    stride, center = distances.keys.shape[1], distances.center
    sizes = np.array([len(lengths), starts[-1], max(lengths), stride, center])
    arrays = (sizes, starts[:-1], np.array(lengths), masks, operands)
    arrays += (distances.keys, distances.queries)
    result = driver("attention", as_in_c(struct, target), *arrays)
    out = np.frombuffer(result, np.float32).reshape(HEADS * features, -1)
    for start, n, mask in zip(starts, lengths, masks, strict=False):
        text = operands[:, :, start : start + n].transpose(0, 2, 1)
        expected = numpy_attention(quantizers, features, text, mask[:n], distances)
        difference = np.abs(out[:, start : start + n].T - expected)
        # A probability between two integers may be rounded to the other one.
        assert difference.max() < (1e-5 if quantizers is FLOAT else 6 / 255 * 6.4)
        assert difference.mean() < (1e-6 if quantizers is FLOAT else 2e-5)


@pytest.mark.parametrize("tokens", [4, 32, 36, 52])
@pytest.mark.parametrize("format", [Format.ROUNDED, Format.PACKED, Format.PLANES])
def test_the_input_of_values_quantized_apart(
    driver: Driver, target: str, format: Format, tokens: int
) -> None:
    """It is stored as the other layers store their outputs."""
    if format != Format.ROUNDED and target == "neon":
        pytest.skip("NEON alone multiplies no bytes by fours")
    x = np.random.default_rng(tokens).normal(0, 1, (20, tokens)).astype(np.float32)
    rounding = QuantizerStruct(format, 0.02, 50, 120, 0, 255)
    sizes = np.array([20, tokens])
    assert driver("converted", as_in_c(rounding, target), sizes, x) == b"1"


def test_functions(driver: Driver, target: str) -> None:
    x = np.linspace(-80, 5, 1 << 12).astype(np.float32)
    result = driver("functions", np.array([x.size]), x)
    exponentials, gelus = np.frombuffer(result, np.float32).reshape(-1, 2, 4).transpose(1, 0, 2)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(exponentials.ravel(), np.exp(np.minimum(exact, 0)), rtol=4e-7)
    # Without fused multiply-adds P has one more error of rounding, here times up to 80.
    np.testing.assert_allclose(gelus.ravel(), gelu(exact), atol=6e-6 if target == "wasm" else 2e-6)


@pytest.mark.parametrize("folder", FLAGS)
def test_every_kernel_compiles_for_arm(folder: str, tmp_path: Path) -> None:
    flags = [*FLAGS[folder], "-Wall", "-Wextra", "-Werror"]
    skip_without(ARM_COMPILER)
    files = [str(file) for file in sorted((CSRC / folder).glob("*.c"))]
    command = [ARM_COMPILER, "-O1", "-fopenmp", "-fPIC", "-shared", *flags, *files, "-lm"]
    assert files
    subprocess.run([*command, "-o", str(tmp_path / "kernel.so")], check=True)
