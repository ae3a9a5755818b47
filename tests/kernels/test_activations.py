"""The activations of runtime=sparse with each instruction set that this CPU has, and with none."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import pytest
from compiler import needs_compiler

from sparsekit.kernels.compiler import FLAGS
from sparsekit.kernels.sources import FLAGS as KERNEL_FLAGS
from sparsekit.kernels.variants import NATIVE, runnable
from sparsekit.runtime.sparse.operators import gelu
from sparsekit.system import cpu_flags

pytestmark = needs_compiler

PROBE = """
#include "linear.h"
void activate_all(const float *x, float *y, long count, long activation) {
    for (long i = 0; i < count; i += LANES) {
        vector result = activate(load(x + i), activation);
        memcpy(y + i, &result, sizeof result);
    }
}
"""
# As in linear.h.
GELU, RELU, GELU_TANH, SILU = 1, 2, 3, 4
BUILDS = {each.name: each.flags for each in (NATIVE, *runnable((cpu_flags() or "").split()))}
if platform.machine() == "x86_64":
    BUILDS["without FMA"] = ("-march=x86-64",)
Activate = Callable[[np.ndarray, int], np.ndarray]


@pytest.fixture(scope="module", params=BUILDS)
def activate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Activate:
    folder = tmp_path_factory.mktemp("activations")
    (folder / "probe.c").write_text(PROBE)
    flags = [*FLAGS, *BUILDS[request.param], *KERNEL_FLAGS["encoder"], "-Wno-unused"]
    include = f"-I{files('sparsekit.kernels') / 'csrc' / 'encoder'}"
    command = ["cc", *flags, include, str(folder / "probe.c"), "-o", str(folder / "probe.so")]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(folder / "probe.so"))

    def call(x: np.ndarray, activation: int) -> np.ndarray:
        # Whole vectors of up to 16 lanes.
        padded = np.zeros(-(-x.size // 16) * 16, np.float32)
        padded[: x.size] = x
        y = np.empty_like(padded)
        arrays = (ctypes.c_void_p(array.ctypes.data) for array in (padded, y))
        library.activate_all(*arrays, ctypes.c_long(padded.size), ctypes.c_long(activation))
        return y[: x.size]

    return call


def test_gelu_is_exact_to_a_millionth_or_a_rounding(activate: Activate) -> None:
    x = np.concatenate([np.linspace(-1e4, 1e4, 1 << 18), np.linspace(-8, 8, 1 << 17)])
    x = np.concatenate([x, [-3.4e38, -1e30, 1e30, 3.4e38]]).astype(np.float32)
    result = activate(x, GELU)
    exact = gelu(x.astype(np.float64))
    assert (np.abs(result - exact) <= np.maximum(1e-6, np.spacing(np.abs(x)))).all()


def test_relu(activate: Activate) -> None:
    x = np.array([-np.inf, -1e30, -1, -1e-45, -0.0, 0, 1e-45, 1, 3.4e38, np.inf], np.float32)
    assert np.array_equal(activate(x, RELU), np.maximum(x, 0))


@pytest.mark.parametrize("activation", [0, GELU, RELU, GELU_TANH, SILU])
def test_nan_remains(activate: Activate, activation: int) -> None:
    """An overflow must not become an answer that looks like one."""
    x = np.array([np.nan, 1.0, -np.nan], np.float32)
    assert np.isnan(activate(x, activation)).tolist() == [True, False, True]
