"""The kernels as a WebAssembly module: that of the installation, or one compiled by emcc.

`make wasm` calls `python -m sparsekit.web.wasm`, which compiles it into the package that it runs
from.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from sparsekit.cache import cached, content_hash
from sparsekit.errors import UserError
from sparsekit.kernels.sources import sources

COMPILER = "emcc"
NAME = "sparsekit.wasm"
# 128-bit SIMD, and memory that grows: every browser since 2021 has both.
FLAGS = (
    "-O3",
    "-msimd128",
    "-fno-math-errno",
    "-fno-trapping-math",
    "--no-entry",
    "-sSTANDALONE_WASM",
    "-sALLOW_MEMORY_GROWTH=1",
)
# The structures that the page fills; it reads their layouts from the module.
STRUCTURES = (
    "quantizer",
    "weight",
    "attention",
    "norm",
    "layer",
    "encoder",
    "table",
    "embedding",
    "score_terms",
)
BUILT = Path(__file__).parent / "built"
_SOURCE = Path(__file__).parent / "csrc" / "web.c"


def module_file() -> Path:
    """The path of the module. Raises UserError where there is none and no emcc to compile it."""
    key = _key()
    built = BUILT / f"{key}.wasm"
    return built if built.is_file() else cached("wasm", key, _make) / NAME


def compile_module(target: Path) -> None:
    """Compile the module to `target`; raises UserError where that fails."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise UserError(
            f"the kernels for browsers have to be compiled, and there is no {COMPILER}: install "
            "Emscripten (Debian: apt-get install emscripten), or run `make wasm` where it is"
        )
    with tempfile.TemporaryDirectory() as folder:
        for name, text in sources("encoder").items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_text(text, encoding="utf-8")
        exports = [f"-Wl,--export={structure}_layout" for structure in STRUCTURES]
        command = [compiler, *FLAGS, *exports, f"-I{folder}", str(_SOURCE), "-o", str(target)]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise UserError(
            f"{compiler} cannot compile the kernels:\n{result.stderr.strip()[:2000]}\n"
            "repair the installation of Emscripten"
        )


def _make(folder: Path) -> None:
    compile_module(folder / NAME)


def _key() -> str:
    """The hash of everything that decides what the module does."""
    named = [part for item in sorted(sources("encoder").items()) for part in item]
    return content_hash([*named, _SOURCE.read_bytes(), *FLAGS, *STRUCTURES])


def build() -> Path:
    """Compile the module into this package, in place of older ones; returns its path."""
    shutil.rmtree(BUILT, ignore_errors=True)
    BUILT.mkdir()
    target = BUILT / f"{_key()}.wasm"
    compile_module(target)
    return target


if __name__ == "__main__":
    build()
