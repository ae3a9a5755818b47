"""OpenVINO on the CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsekit.config import UserError, first_line
from sparsekit.environment import cpu_units
from sparsekit.runtime.base import Inputs, clock


class OpenVinoRuntime:
    """A compiled model for single requests at a time; all shapes stay dynamic."""

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

        if not model.is_file():
            raise UserError(f"there is no {model}; export the run first: sparsekit export RUN")
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Whatever is not int8: bf16 pays with AMX alone. OpenVINO would also choose it for
            # AVX512-BF16, where float32 was measured to be faster.
            "INFERENCE_PRECISION_HINT": "bf16" if (cpu_units() or {}).get("amx_bf16") else "f32",
        }
        try:
            compiled = openvino.Core().compile_model(str(model), "CPU", self._settings)
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO cannot load {model}: {first_line(error)}; the file may be cut short: "
                "export the run again: sparsekit export RUN"
            ) from error
        self._request = compiled.create_infer_request()
        self._names = [value.any_name for value in compiled.inputs]
        self._version = openvino.__version__

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        self._request.infer({name: inputs[name] for name in self._names})
        logits: npt.NDArray[np.float32] = self._request.get_output_tensor(0).data.copy()
        return logits

    def seconds(self, inputs: Inputs) -> float:
        return clock(self.run, inputs)

    def describe(self) -> dict[str, Any]:
        return {
            "version": self._version,
            "threads": self._settings["INFERENCE_NUM_THREADS"],
            "precision": self._settings["INFERENCE_PRECISION_HINT"],
        }
