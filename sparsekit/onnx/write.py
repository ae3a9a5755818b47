"""From a model to the files of its graphs: traced, and rewritten by the passes of a form."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from transformers import PreTrainedModel

from sparsekit.onnx.forms import FORMS
from sparsekit.onnx.graph import number_repeated
from sparsekit.onnx.layers import Layers
from sparsekit.onnx.trace import trace
from sparsekit.tasks.base import Task


def write_graphs(
    model: PreTrainedModel,
    task: Task,
    layers: Layers,
    file: Path,
    traced: Path,
    form: str = "qdq",
) -> None:
    """Write the traced graph to `traced`, and the graph after the passes of `form` to `file`."""
    graph = trace(model, task)
    ir.save(graph, traced)
    for rewrite in FORMS[form]:
        rewrite(graph, layers)
    number_repeated(graph)
    ir.save(graph, file)
