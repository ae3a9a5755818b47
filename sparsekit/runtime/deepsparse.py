"""DeepSparse 1.8 in the peer environment, through a subprocess.

Its engines have fixed shapes, so rows are padded to the next of a few lengths, and batches to the
next power of two. It changes the shapes in its file, so it gets a copy.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import weakref
from bisect import bisect_left
from math import prod
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError, first_line, printable
from sparsekit.runtime.base import Inputs, RuntimeFailed
from sparsekit.runtime.onnx_file import check_file
from sparsekit.sparseml.peer import WORKERS, peer_problem, peer_python

LENGTHS = (32, 64, 128, 256, 512)
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_WORKER = WORKERS / "deepsparse.py"


class DeepSparseRuntime:
    """A worker process with an engine for each of the shapes that were requested last."""

    name = "deepsparse"
    forms: tuple[str, ...] = ("deepsparse",)

    @staticmethod
    def missing() -> str | None:
        return peer_problem("deepsparse")

    def __init__(self, model: Path, threads: int) -> None:
        if install := self.missing():
            raise UserError(f"DeepSparse is not installed: {install}")
        check_file(model)
        self._threads = threads
        self._names, self._lengths, self._per_token = _shapes(model)
        self._last: dict[str, Any] = {}
        self._lock = Lock()
        self._scratch = tempfile.TemporaryDirectory(prefix="sparsekit-deepsparse-")
        copy = shutil.copy(model, self._scratch.name)
        self._errors = open(Path(self._scratch.name) / "stderr", "w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(peer_python()), "-I", _WORKER, copy, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=self._scratch.name,
            env=os.environ | {"NM_DISABLE_ANALYTICS": "True"},
        )
        self._finalizer = weakref.finalize(self, _close, self._process, self._errors, self._scratch)
        self._version = self._answer()["version"]

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        return self.outputs(inputs)[0]

    def outputs(self, inputs: Inputs) -> tuple[npt.NDArray[np.float32], ...]:
        # Batches of any size would each make an engine, within the requests that are served.
        return self._run(inputs, 1 << (len(inputs["input_ids"]) - 1).bit_length())

    def _run(self, inputs: Inputs, rows: int) -> tuple[npt.NDArray[np.float32], ...]:
        """The graph's outputs for `inputs`, computed as a batch of so many rows, or more."""
        batch, length = inputs["input_ids"].shape
        fitting = [fixed for fixed in self._lengths if fixed >= length]
        if not fitting:
            raise UserError(
                f"DeepSparse runs at most {self._lengths[-1]} tokens here, not {length}: shorten "
                "the text, or choose another runtime"
            )
        header = {"shape": [rows, fitting[0]], "inputs": len(self._names)}
        padding, more = ((0, 0), (0, fitting[0] - length)), ((0, rows - batch), (0, 0))
        arrays = [np.pad(inputs[name], padding).astype(np.int64) for name in self._names]
        # The last row again: one without any token could give NaN.
        arrays = [np.pad(array, more, mode="edge") for array in arrays]
        assert self._process.stdin is not None and self._process.stdout is not None
        # What is written to the worker and read from it belongs together.
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(header).encode() + b"\n")
                for array in arrays:
                    self._process.stdin.write(array.tobytes())
                self._process.stdin.flush()
            except BrokenPipeError:
                raise self._failed() from None
            self._last = self._answer()
            shapes = self._last["shapes"]
            data = [self._process.stdout.read(4 * prod(shape)) for shape in shapes]
        outputs = [
            np.frombuffer(values, np.float32).reshape(shape)[:batch]
            for values, shape in zip(data, shapes, strict=True)
        ]
        # Of outputs for each token, those of the padding up to the engine's length are left out.
        return tuple(
            (output[:, :length] if per_token else output).copy()
            for output, per_token in zip(outputs, self._per_token, strict=True)
        )

    def seconds(self, inputs: Inputs) -> float:
        """The duration in the engine's own process, without the transfer of inputs and logits."""
        # Of exactly these rows.
        self._run(inputs, len(inputs["input_ids"]))
        return float(self._last["seconds"])

    def describe(self) -> dict[str, Any]:
        return {
            "version": self._version,
            "threads": self._threads,
            "fraction_of_supported_ops": self._last.get("supported"),
            "rss_bytes": self._last.get("rss_bytes"),
        }

    def close(self) -> None:
        """End the worker."""
        self._finalizer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failed(self) -> RuntimeFailed:
        self._process.wait(timeout=60)
        self._errors.seek(0)
        output = self._errors.read().decode(errors="replace").strip().splitlines()
        said = printable(output[-1]) if output else "without a message"
        return RuntimeFailed(
            f"DeepSparse ended: {said}; it needs a CPU "
            "with AVX2 and a graph that was exported with export.form=deepsparse"
        )


def _shapes(model: Path) -> tuple[list[str], list[int], list[bool]]:
    """The graph's inputs in the engine's order, the lengths, and which outputs are for each token.

    The lengths to pad to are LENGTHS up to the graph's number of positions, and that number:
    longer rows would crash the engine. The number is the longest row that onnxruntime can run.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    from sparsekit.runtime.onnxruntime import ERRORS

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # A run that fails is expected here.
    how: dict[str, Any] = {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}
    try:
        session = onnxruntime.InferenceSession(str(model), options, **how)
    except ERRORS as error:
        raise UserError(
            f"onnxruntime, which finds the shapes for DeepSparse, cannot load {model}: "
            f"{first_line(error)}; the file was changed: export the run again: sparsekit export RUN"
        ) from error
    names = [value.name for value in session.get_inputs()]
    assert set(names) <= set(_INPUTS)
    # The name of the dimension of the tokens, which inputs and outputs share.
    tokens = session.get_inputs()[0].shape[1]
    per_token = [tokens in value.shape[1:2] for value in session.get_outputs()]

    def fails(length: int) -> bool:
        # Zeros, as in padding: some models count positions by the tokens that are not padding.
        try:
            session.run(None, dict.fromkeys(names, np.zeros((1, length), np.int64)))
        except (Fail, InvalidArgument, RuntimeException):
            return True
        return False

    longest = LENGTHS[-1]
    if fails(longest):
        longest = bisect_left(range(1, longest), True, key=fails)
    return names, [fixed for fixed in LENGTHS if fixed < longest] + [longest], per_token


def _close(
    process: subprocess.Popen[bytes], errors: IO[bytes], scratch: tempfile.TemporaryDirectory[str]
) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, errors):
        stream.close()
    scratch.cleanup()
