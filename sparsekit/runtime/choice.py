"""The list of runtimes, and the choice of one by name or by file."""

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
    """The runtime called `name`; raises UserError where it is unknown or not installed."""
    kinds = {kind.name: kind for kind in RUNTIMES}
    if name not in kinds:
        raise UserError(f"there is no runtime {name!r}; choose one of {', '.join(kinds)}")
    if install := kinds[name].missing():
        raise UserError(f"runtime {name} is not installed: {install}")
    return kinds[name]


def runtimes_for(model: Path, form: str) -> list[type[Runtime]]:
    """The installed runtimes that support the ONNX file `model`, a graph of the form `form`."""
    kinds = [kind for kind in RUNTIMES if form in kind.forms and kind.missing() is None]
    return [kind for kind in kinds if kind is not SparseRuntime or refusal(model) is None]
