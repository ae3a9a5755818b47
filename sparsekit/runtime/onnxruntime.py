"""onnxruntime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import (
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
)

from sparsekit.errors import UserError, first_line
from sparsekit.runtime.base import Inputs, RuntimeFailed, checked_inputs, clock
from sparsekit.runtime.onnx_file import check_file
from sparsekit.system import int8_sums_overflow

# Its exceptions for a file or inputs that it cannot run; they have no common base class. A message
# that quotes a damaged name, which is no UTF-8, arrives as a UnicodeDecodeError.
ERRORS = (
    *(EPFail, Fail, InvalidArgument, InvalidGraph, InvalidProtobuf),
    *(NoSuchFile, NotImplemented, RuntimeException, UnicodeDecodeError),
)
ERRORS_ONLY = 3
FLOAT32_INPUTS = "1"


class OnnxRuntime:
    """A session with all graph optimizations and `threads` threads within each operator.

    `optimized` is a file to write the optimized graph to, which is the one that runs.
    """

    name = "onnxruntime"
    forms: tuple[str, ...] = ("qdq", "deepsparse")

    @staticmethod
    def missing() -> None:
        return None

    def __init__(self, model: Path, threads: int, optimized: Path | None = None) -> None:
        check_file(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = ERRORS_ONLY
        # Keeps float inputs of layers with int8 weights: by default they would be quantized.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", FLOAT32_INPUTS)
        # Otherwise its threads spin on after a run, on cores that the next one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        overflow = int8_sums_overflow()
        if overflow:
            # uint8 weights, to which onnxruntime then converts, are exact without VNNI, and slower.
            options.add_session_config_entry("session.x64quantprecision", "1")
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        try:
            self._session = _session(model, options, may_convert=overflow)
        except ERRORS as error:
            raise UserError(
                f"onnxruntime cannot load {model}: {first_line(error)}; the file was changed: "
                "export the run again: sparsekit export RUN"
            ) from error
        self._model, self._threads = model, threads
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        return self.outputs(inputs)[0]

    def outputs(self, inputs: Inputs) -> tuple[npt.NDArray[np.float32], ...]:
        feed = checked_inputs(inputs, self._names)
        try:
            found: list[npt.NDArray[np.float32]] = self._session.run(None, feed)
        except ERRORS as error:
            raise RuntimeFailed(
                f"onnxruntime cannot run {self._model}: {first_line(error)}; the text is longer "
                "than the model's positions, or the graph was changed: export the run again"
            ) from error
        return tuple(found)

    def seconds(self, inputs: Inputs) -> float:
        return clock(self.run, inputs)

    def describe(self) -> dict[str, Any]:
        return {"version": onnxruntime.__version__, "threads": self._threads}


def _session(
    model: Path, options: onnxruntime.SessionOptions, may_convert: bool
) -> onnxruntime.InferenceSession:
    """may_convert: whether weights are converted, which fails where layers share them."""
    # Without its fallback, which prints the error and tries the same provider again.
    how: dict[str, Any] = {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}
    try:
        return onnxruntime.InferenceSession(str(model), options, **how)
    except Fail:
        if not may_convert:
            raise
    from sparsekit.runtime.shared_weights import with_own_weights

    return onnxruntime.InferenceSession(with_own_weights(model), options, **how)
