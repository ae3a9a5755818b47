"""What a runtime is: something that turns token ids into logits, from a deployment folder alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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


def clock(run: Callable[[Inputs], object], inputs: Inputs) -> float:
    """Seconds that `run(inputs)` takes."""
    started = time.perf_counter()
    run(inputs)
    return time.perf_counter() - started
