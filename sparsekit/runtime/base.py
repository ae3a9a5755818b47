"""What a runtime is: something that turns token ids into logits, from a deployment folder alone."""

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


class Runtime(Protocol):
    """`name`: its key in `summary.runtime`; `forms`: the graph forms it runs, fastest first."""

    name: str
    forms: tuple[str, ...]

    @staticmethod
    def missing() -> str | None:
        """What installs it; None where it is installed."""

    def __init__(self, model: Path, threads: int) -> None:
        """Load the ONNX file `model`; raises UserError when it cannot be read."""

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Logits [batch, labels] of `input_ids`, `attention_mask`, ..., each [batch, sequence]."""

    def seconds(self, inputs: Inputs) -> float:
        """The time that one run takes."""

    def describe(self) -> dict[str, Any]:
        """Version and settings, for `benchmark.json`."""


def checked_inputs(inputs: Inputs, names: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """The inputs of these names; raises UserError unless all are int64 [batch, length] of one
    shape with at least one sequence of one token."""
    lacking = [name for name in names if name not in inputs]
    if lacking or not names:
        raise UserError(
            f"the graph reads {', '.join(lacking) or 'no input'}; given are {', '.join(inputs)}: "
            "export the run again"
        )
    found = {name: inputs[name] for name in names}
    shapes = {array.shape for array in found.values()}
    if len(shapes) != 1 or len(min(shapes)) != 2 or 0 in min(shapes):
        described = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
        raise UserError(f"inputs have one shape, [batch, length], none of it 0; got {described}")
    for name, array in found.items():
        if array.dtype != np.int64:
            raise UserError(f"{name} is {array.dtype}; convert it to int64")
    return found


def check_threads(threads: int, name: str) -> None:
    """Raise UserError for more threads than the machine has: runtimes make them, at great length.

    `name` is what the user set.
    """
    limit = max(cores(), os.cpu_count() or 1)
    if threads > limit:
        raise UserError(
            f"{name} is {threads}, this machine has {limit} cores; choose {limit} or less"
        )


def clock(run: Callable[[Inputs], object], inputs: Inputs) -> float:
    """Seconds that `run(inputs)` takes."""
    started = time.perf_counter()
    run(inputs)
    return time.perf_counter() - started
