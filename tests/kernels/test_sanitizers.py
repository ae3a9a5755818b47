"""The C kernels on random inputs, plainly and under the compiler's sanitizers (`make sanitize`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kernel_fuzz
import pytest
from compiler import needs_compiler
from kernel_fuzz import fuzz_encoder, fuzz_products, fuzz_training
from project import GOLDEN
from sparse_graphs import write_graph

pytestmark = needs_compiler

INT8 = GOLDEN / "old_run" / "deployment" / "model.onnx"
# Besides: float32; rotated, gated, with windows; pairs of tokens; distances.
MODELS = {"bert_relu": False, "modernbert": True, "mpnet": True, "deberta_v3": True}
SANITIZERS = {
    # C++'s exceptions have to be found when it is loaded, before a library of Python's brings them.
    "address": ("libasan.so", "libstdc++.so.6"),
    "undefined": (),
    "thread": ("libtsan.so",),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of kernels with sanitizers, which are compiled once."""
    return tmp_path_factory.mktemp("sanitized")


def test_the_encoder_answers_alike_with_any_threads_or_refuses() -> None:
    assert fuzz_encoder(INT8, 4) > 20


def test_products_of_any_size() -> None:
    assert fuzz_products(200) == 200


def test_the_kernels_of_training_take_any_size_and_value() -> None:
    assert fuzz_training(8) == 56


def sanitized(sanitizer: str, cache: Path, *words: str) -> None:
    """Run `kernel_fuzz.py` with kernels that are compiled with the sanitizer."""
    libraries = [
        subprocess.check_output(["cc", f"-print-file-name={name}"], text=True).strip()
        for name in SANITIZERS[sanitizer]
    ]
    if not all(Path(library).is_file() for library in libraries):
        pytest.skip(f"the compiler has no {sanitizer} sanitizer")
    environment = os.environ | {
        "CC": f"cc -fsanitize={sanitizer} -fno-sanitize-recover=all -g",
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        # Of code that is not ours, as Python's, the thread sanitizer sees the locks alone.
        "TSAN_OPTIONS": "halt_on_error=1 ignore_noninstrumented_modules=1 report_bugs=1",
        "SPARSEKIT_CACHE": str(cache),
        # The thread sanitizer does not know the barriers of OpenMP.
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, kernel_fuzz.__file__, *words]
    if sanitizer == "thread" and shutil.which("setarch"):
        # Some kernels place memory where gcc's thread sanitizer does not expect it.
        command = ["setarch", "-R", *command]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=550)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) > 20


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = [
        write_graph(tmp_path_factory.mktemp(name), name, quantized=quantized)
        for name, quantized in MODELS.items()
    ]
    return [str(graph) for graph in (INT8, *made)]


@pytest.mark.slow
@pytest.mark.sanitizer
@pytest.mark.skipif(sys.platform != "linux", reason="sanitizers are preloaded as on Linux")
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_encoder_under_a_sanitizer(sanitizer: str, graphs: list[str], cache: Path) -> None:
    sanitized(sanitizer, cache, "encoder", "5", *graphs)


@pytest.mark.slow
@pytest.mark.sanitizer
@pytest.mark.skipif(sys.platform != "linux", reason="sanitizers are preloaded as on Linux")
@pytest.mark.parametrize("sanitizer", ["address", "undefined"])
def test_the_kernels_of_training_under_a_sanitizer(sanitizer: str, cache: Path) -> None:
    sanitized(sanitizer, cache, "training", "30")
