"""The outputs of both models on the same rows: of the exported file, or of a model in torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from sparsekit.errors import UserError, reworded
from sparsekit.models.loading import read_config
from sparsekit.models.quantizers import WEIGHTS, is_quantized
from sparsekit.onnx.parity import Rows, read_rows
from sparsekit.onnx.probes import input_names
from sparsekit.onnx.sums import NAME, check_sums, file_sum
from sparsekit.onnx.trace import load_model
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.answers import predict_outputs
from sparsekit.runtime.base import Computing, Inputs
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.tasks.base import Output
from sparsekit.runtime.tasks.file import read_task
from sparsekit.system import cores
from sparsekit.tasks.base import Task

GRAPH = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What one model gave for the rows.

    file: its weights or graph; sum: the SHA-256 sum of that file; runtime: what computed `outputs`,
    which are in the order of the labels of the compressed model.
    """

    file: Path
    sum: str
    runtime: str
    rows: Rows
    outputs: dict[str, Output]


class TorchModel:
    """A model in torch, called like a runtime."""

    name = "torch"

    def __init__(self, model: PreTrainedModel, task: Task) -> None:
        self._model, self._task = model, task
        self._inputs = input_names(model)

    @torch.inference_mode()
    def outputs(self, inputs: Inputs) -> tuple[npt.NDArray[np.float32], ...]:
        batch = {name: torch.from_numpy(inputs[name]) for name in self._inputs}
        return tuple(each.numpy() for each in self._task.model_outputs(self._model(**batch), batch))


def answer(folder: Path, task: Task, data: Path) -> Answered:
    """The outputs of the model in `folder`, a deployment or a model of transformers.

    data: `evaluation/<split>.parquet`. Raises UserError for files that are not what was exported,
    and for a deployment of another task.
    """
    encoder = TextEncoder(folder)
    rows = read_rows(data, task, encoder)
    file = folder / GRAPH
    runtime: Computing
    if file.is_file():
        if (folder / NAME).is_file():
            check_sums(folder)
        theirs = read_task(folder)
        if type(theirs) is not type(task.answers):
            raise UserError(
                f"{folder} answers as {type(theirs).__name__}, the run is for {task.name}: compare "
                "models of one task"
            )
        runtime = OnnxRuntime(file, cores())
    else:
        file = folder / WEIGHTS
        model, _ = load_model(folder, task)
        runtime = TorchModel(model, task)
    outputs = predict_outputs(runtime, task.answers, encoder, rows.encodings)
    return Answered(file=file, sum=file_sum(file), runtime=runtime.name, rows=rows, outputs=outputs)


def answer_as(ours: Answered, folder: Path, task: Task, data: Path) -> Answered:
    """The same of the baseline in `folder`, its labels in the order of those of `ours`.

    Raises UserError for other labels, and for other tokens where outputs and labels are per token.
    """
    config = read_config(folder)
    architectures = config.architectures or []
    with reworded(lambda text: text.replace("the teacher", "the baseline")):
        order = task.teacher_order(config, architectures, folder.name, ours.rows.label_names)
    with reworded(lambda text: text.replace("the model splits", f"{folder} splits")):
        found = answer(folder, task, data)
    pairs = zip(ours.rows.encodings, found.rows.encodings, strict=True)
    if task.answers.per_token and any(mine.ids != other.ids for mine, other in pairs):
        raise UserError(
            f"{folder} splits the texts into other tokens than the run, so that their outputs for "
            "each token cannot be compared; choose a baseline with the same tokenizer and "
            "dataset.max_length"
        )
    if order is not None:
        for name, output in found.outputs.items():
            found.outputs[name] = (
                [row[..., order] for row in output]
                if isinstance(output, list)
                else output[..., order]
            )
    return found


def baseline_folder(path: Path) -> Path:
    """The folder of the baseline's model: the deployment of a run, else the model it trained.

    Raises UserError where `path` is neither a run nor holds a model, and for a quantized model that
    is not exported.
    """
    run = RunFolder(path)
    for folder in (run.deployment, run.model, path):
        if (folder / GRAPH).is_file():
            return folder
        if (folder / WEIGHTS).is_file():
            if is_quantized(folder):
                raise UserError(
                    f"{folder} is quantized, and transformers would load it in float32; export it "
                    "first (sparsekit export RUN), or give the dense model"
                )
            return folder
    raise UserError(
        f"{path} has no model to compare with: give a run folder, a deployment, or the folder of a "
        "model of transformers (config.json, model.safetensors and tokenizer.json)"
    )
