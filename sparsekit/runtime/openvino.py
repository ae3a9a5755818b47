"""OpenVINO on the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError, first_line
from sparsekit.runtime.base import Inputs, RuntimeFailed, checked_inputs, clock
from sparsekit.runtime.onnx_file import check_file
from sparsekit.system import cpu_units, int8_sums_overflow

# On CPUs with AMX, OpenVINO can store int8 weights without their zeros and unpack them in the
# matmul: less memory to read, more to compute. Layers with at least this share of zeros are packed.
PACKED_FROM = 0.5
TRIALS = 10
# For a file or inputs that it cannot run. A message that quotes a damaged name, which is no UTF-8,
# arrives as a UnicodeDecodeError.
ERRORS = (RuntimeError, UnicodeDecodeError)


class OpenVinoRuntime:
    """A compiled model for one request at a time, with dynamic shapes; threads wait their turn.

    Where int8 sums overflow (see `system.int8_sums_overflow`) it multiplies in float32. With AMX it
    is compiled with packed weights too, and the first inputs show which is faster.
    """

    name = "openvino"
    forms: tuple[str, ...] = ("qdq",)

    @staticmethod
    def missing() -> str | None:
        installed = importlib.util.find_spec("openvino") is not None
        return None if installed else "pip install 'sparsekit[openvino]'"

    def __init__(self, model: Path, threads: int) -> None:
        if install := self.missing():
            raise UserError(f"OpenVINO is not installed: {install}")
        import openvino

        check_file(model)
        units = cpu_units() or {}
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Of what is not int8. bf16 is faster with AMX only; OpenVINO would also choose it for
            # AVX512-BF16, where float32 was measured to be faster.
            "INFERENCE_PRECISION_HINT": "bf16" if units.get("amx_bf16") else "f32",
        }
        self._int8 = not int8_sums_overflow()
        if not self._int8:
            # Its int8 matmuls saturate; without them it computes the rounded values in float32.
            self._settings["LP_TRANSFORMS_MODE"] = "NO"
        packed = {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": PACKED_FROM}
        variants = [{}, packed] if units.get("amx_int8") else [{}]
        try:
            compiled = [
                openvino.Core().compile_model(str(model), "CPU", self._settings | variant)
                for variant in variants
            ]
            self._names = [value.any_name for value in compiled[0].inputs]
        except ERRORS as error:
            raise UserError(
                f"OpenVINO cannot load {model}: {first_line(error)}; the file may be cut short: "
                "export the run again: sparsekit export RUN"
            ) from error
        self._model = model
        self._requests = [each.create_infer_request() for each in compiled]
        self._chosen = 0 if len(compiled) == 1 else None
        self._version = openvino.__version__
        self._lock = Lock()

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        return self.outputs(inputs)[0]

    def outputs(self, inputs: Inputs) -> tuple[npt.NDArray[np.float32], ...]:
        feed = checked_inputs(inputs, self._names)
        # A request holds the outputs of its last inputs.
        with self._lock:
            try:
                if self._chosen is None:
                    self._chosen = fastest([request.infer for request in self._requests], feed)
                request = self._requests[self._chosen]
                request.infer(feed)
            except ERRORS as error:
                raise RuntimeFailed(
                    f"OpenVINO cannot run {self._model}: {first_line(error)}; the text is longer "
                    "than the model's positions, or the graph was changed: export the run again"
                ) from error
            return tuple(tensor.data.copy() for tensor in request.output_tensors)

    def seconds(self, inputs: Inputs) -> float:
        return clock(self.run, inputs)

    def describe(self) -> dict[str, Any]:
        return {
            "version": self._version,
            "threads": self._settings["INFERENCE_NUM_THREADS"],
            "int8": self._int8,
            "precision": self._settings["INFERENCE_PRECISION_HINT"],
            "packed_weights": bool(self._chosen),
        }


def fastest(runs: Sequence[Callable[[Inputs], object]], inputs: Inputs) -> int:
    """The index of the run that takes the least time for `inputs`, measured in turns."""
    seconds = [[clock(run, inputs) for run in runs] for _ in range(TRIALS)]
    return int(np.argmin(np.min(seconds, axis=0)))
