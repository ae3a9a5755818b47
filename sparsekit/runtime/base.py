"""The interface of a runtime, which computes logits from token ids, and checks of its inputs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError
from sparsekit.system import cores

Inputs = Mapping[str, npt.NDArray[np.int64]]


class RuntimeFailed(UserError):
    """The runtime cannot compute, whatever the texts: the fault is in the graph or the machine."""


class Computing(Protocol):
    """Whatever computes a model's outputs."""

    name: str

    def outputs(self, inputs: Inputs) -> tuple[npt.NDArray[np.float32], ...]:
        """All outputs in the order of their names; `Runtime.run` returns the first."""


class Runtime(Computing, Protocol):
    """A loaded model.

    name: its key in `summary.runtime`; forms: the graph forms that it supports, fastest first.
    """

    forms: tuple[str, ...]

    @staticmethod
    def missing() -> str | None:
        """The command that installs it; None where it is installed."""

    def __init__(self, model: Path, threads: int) -> None:
        """Load the ONNX file `model`; raises UserError where it cannot be read."""

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Logits [batch, labels] of `input_ids`, `attention_mask`, ..., each [batch, sequence]."""

    def seconds(self, inputs: Inputs) -> float:
        """The duration of one run."""

    def describe(self) -> dict[str, Any]:
        """Version and settings, for `benchmark.json`."""


def checked_inputs(inputs: Inputs, names: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """The inputs called `names`.

    Raises UserError unless all are int64 [batch, length] of one shape, without a size of 0.
    """
    lacking = [name for name in names if name not in inputs]
    if lacking or not names:
        raise UserError(
            f"the graph reads {', '.join(lacking) or 'no input'}; the given inputs are "
            f"{', '.join(inputs)}: export the run again"
        )
    checked = {name: inputs[name] for name in names}
    shapes = {array.shape for array in checked.values()}
    if len(shapes) != 1 or len(min(shapes)) != 2 or 0 in min(shapes):
        described = ", ".join(f"{name} {list(array.shape)}" for name, array in checked.items())
        raise UserError(
            f"inputs must have one shape [batch, length] without a size of 0; got {described}"
        )
    for name, array in checked.items():
        if array.dtype != np.int64:
            raise UserError(f"{name} is {array.dtype}; convert it to int64")
    return checked


def check_threads(threads: int, name: str) -> None:
    """Raise UserError for no threads, and for more than the machine has cores.

    More would be slow to create. `name` is the setting, for the message.
    """
    if threads < 1:
        raise UserError(f"{name} is {threads}, it must be at least 1")
    limit = max(cores(), os.cpu_count() or 1)
    if threads > limit:
        raise UserError(
            f"{name} is {threads}, this machine has {limit} cores; choose {limit} or less"
        )


def clock(run: Callable[[Inputs], object], inputs: Inputs) -> float:
    """The duration of `run(inputs)` in seconds."""
    started = time.perf_counter()
    run(inputs)
    return time.perf_counter() - started
