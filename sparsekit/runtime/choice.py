"""The runtimes that there are, and the one that a name means."""

from __future__ import annotations

from sparsekit.config import UserError
from sparsekit.runtime.base import Runtime
from sparsekit.runtime.deepsparse import DeepSparseRuntime
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime

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
