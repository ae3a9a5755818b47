"""What is timed: a model in the form that each runtime runs best, and two dense baselines.

The baselines have the model's architecture and no zeros, as without pruning: one in float32, one in
int8 by onnxruntime's dynamic quantization, which needs no training.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from transformers import PreTrainedModel

from sparsekit.onnx.layers import read_layers
from sparsekit.onnx.trace import load_model
from sparsekit.onnx.write import write_graphs
from sparsekit.runtime.base import Runtime
from sparsekit.runtime.choice import RUNTIMES
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime, refusal
from sparsekit.tasks.base import Task

DENSE = "dense fp32, onnxruntime"
DYNAMIC = "dense, dynamic int8, onnxruntime"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """One file on one runtime; `form` is None for the baselines."""

    name: str
    runtime: type[Runtime]
    file: Path
    form: str | None = None


def missing() -> dict[str, str]:
    """The runtimes that are not installed, with the command that installs each."""
    return {x.name: install for x in RUNTIMES if (install := x.missing()) is not None}


def candidates(model: Path, task: Task, scratch: Path) -> list[Candidate]:
    """Write the graphs of a saved `model/` folder and of its baselines to `scratch`.

    The float32 baseline comes first. Runtimes that are not installed are left out, and
    `runtime=sparse` where it does not support the model.
    """
    loaded, state = load_model(model, task)
    layers = read_layers(loaded, state)
    left_out = missing()
    runtimes = [runtime for runtime in RUNTIMES if runtime.name not in left_out]
    for form in sorted({runtime.forms[0] for runtime in runtimes}):
        write_graphs(loaded, task, layers, scratch / f"{form}.onnx", scratch / "traced.onnx", form)
    (scratch / "traced.onnx").unlink()
    # Beside the graphs, as in a deployment: it tells a runtime which architecture they are of.
    shutil.copyfile(model / "config.json", scratch / "config.json")
    if SparseRuntime in runtimes and (
        reason := refusal(scratch / f"{SparseRuntime.forms[0]}.onnx")
    ):
        log.warning("not timed: %s", reason)
        runtimes.remove(SparseRuntime)
    write_baselines(loaded, task, scratch)
    return [
        Candidate(DENSE, OnnxRuntime, scratch / "dense.onnx"),
        Candidate(DYNAMIC, OnnxRuntime, scratch / "dynamic.onnx"),
        *(Candidate(x.name, x, scratch / f"{x.forms[0]}.onnx", x.forms[0]) for x in runtimes),
    ]


def sizes(candidates: Sequence[Candidate]) -> dict[str, dict[str, int]]:
    """Bytes of each candidate's file by its name, uncompressed and compressed with zstd."""
    packed: dict[Path, dict[str, int]] = {}
    for file in {candidate.file for candidate in candidates}:
        data = file.read_bytes()
        size = pa.compress(data, codec="zstd").size
        packed[file] = {"bytes": len(data), "bytes_compressed": size}
    return {candidate.name: packed[candidate.file] for candidate in candidates}


def write_baselines(model: PreTrainedModel, task: Task, scratch: Path) -> None:
    """Write `dense.onnx` and `dynamic.onnx`; replaces the zeros of `model` in place."""
    fill_zeros(model)
    layers = read_layers(model, dict(model.state_dict()))
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        # The traced graph without passes, as torch exports it.
        write_graphs(model, task, layers, Path(folder) / "rewritten.onnx", scratch / "dense.onnx")
    with _without_warnings():
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(scratch / "dense.onnx", scratch / "dynamic.onnx")


@torch.no_grad()
def fill_zeros(model: PreTrainedModel) -> None:
    """Replace the zeros of each Linear's weight by noise of its standard deviation."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            noise = torch.randn(module.weight.shape, generator=generator)
            scale = module.weight.std().clamp(min=1e-3)
            module.weight.copy_(torch.where(module.weight == 0, noise * scale, module.weight))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the quantizer, which recommends a preprocessing that does not change these graphs."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
