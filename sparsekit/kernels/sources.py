"""The C sources of each kernel and the flags that it is compiled with.

Imported by setup.py, so by an environment with the standard library alone.
"""

from __future__ import annotations

from importlib.resources import files

# Neither changes a result in our kernels; both allow vectorization.
_VECTORIZED = ("-fno-math-errno", "-fno-trapping-math")
# By folder of `csrc`, in addition to `compiler.FLAGS`.
FLAGS: dict[str, tuple[str, ...]] = {
    "adamw": _VECTORIZED,
    "dropout": _VECTORIZED,
    # It has its own thread pool, see thread_pool.h, and names what is rounded once, see vectors.h.
    "encoder": ("-fno-openmp", "-pthread", "-ffp-contract=off"),
    "fisher": _VECTORIZED,
    # A multiplication and an addition are rounded separately, as in torch.
    "quantize": ("-ffp-contract=off", *_VECTORIZED),
    "sparse_linear": (),
}


def sources(folder: str) -> dict[str, str]:
    """The text of each C file and header, shared ones included, by its path in `csrc`."""
    csrc = files(__package__).joinpath("csrc")
    shared = {
        f.name: f.read_text(encoding="utf-8") for f in csrc.iterdir() if f.name.endswith(".h")
    }
    own = [f for f in csrc.joinpath(folder).iterdir() if f.name.endswith((".c", ".h"))]
    return shared | {f"{folder}/{f.name}": f.read_text(encoding="utf-8") for f in own}
