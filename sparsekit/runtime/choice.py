"""The runtimes that there are, the one that a name means, and those that run a file."""

from __future__ import annotations

from pathlib import Path

from sparsekit.errors import UserError
from sparsekit.runtime.base import Runtime
from sparsekit.runtime.deepsparse import DeepSparseRuntime
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime, refusal

RUNTIMES: tuple[type[Runtime], ...] = (
    OnnxRuntime,
    OpenVinoRuntime,
    DeepSparseRuntime,
    SparseRuntime,
)


def runtime_named(name: str) -> type[Runtime]:
    """The runtime of that name; raises UserError where there is none or it is not installed."""
    kinds = {kind.name: kind for kind in RUNTIMES}
    if name not in kinds:
        raise UserError(f"there is no runtime {name!r}; choose one of {', '.join(kinds)}")
    if install := kinds[name].missing():
        raise UserError(f"runtime {name} is not installed: {install}")
    return kinds[name]


def runtimes_for(model: Path, form: str) -> list[type[Runtime]]:
    """The runtimes of this machine that run the ONNX file `model`, a graph of that form."""
    kinds = [kind for kind in RUNTIMES if form in kind.forms and kind.missing() is None]
    return [kind for kind in kinds if kind is not SparseRuntime or refusal(model) is None]
