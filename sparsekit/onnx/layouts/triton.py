"""A model repository of NVIDIA Triton Inference Server, for its onnxruntime or OpenVINO backend.

    repository/NAME/config.pbtxt
                    labels.txt        for onnxruntime, where the output is one logit per label
                    1/model.onnx

Source of the fields: https://github.com/triton-inference-server/common/blob/main/protobuf/
model_config.proto. Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from sparsekit.errors import UserError
from sparsekit.onnx.layouts.source import Source, Tensor
from sparsekit.onnx.layouts.versions import add_version

CONFIG, LABELS = "config.pbtxt", "labels.txt"
ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
# Rows of one batch, after which Triton starts the next.
MAX_BATCH = 32
# ONNX's names of element types that Triton has under another name.
_KINDS = {"FLOAT": "FP32", "DOUBLE": "FP64", "FLOAT16": "FP16"}

_HEAD = """\
name: {name}
backend: {backend}
default_model_filename: "model.onnx"
max_batch_size: {batch}
"""
_TENSOR = """\
{field} {{
  name: {name}
  data_type: TYPE_{kind}
  dims: [ {dims} ]{labels}
}}
"""
_CPU = """\
instance_group {
  count: 1
  kind: KIND_CPU
}
"""


def write_onnxruntime(source: Source, repository: Path) -> Path:
    """Add the model to `repository` for the onnxruntime backend; returns the version's folder.

    Triton gathers requests of the same length into batches.
    """
    return _write(source, repository, ONNXRUNTIME, MAX_BATCH)


def write_openvino(source: Source, repository: Path) -> Path:
    """Add the model to `repository` for the OpenVINO backend; returns the version's folder.

    Batches are as large as the client makes them: that backend cannot change the batch size of a
    model that has other dynamic dimensions.
    """
    return _write(source, repository, OPENVINO, 0)


def _write(source: Source, repository: Path, backend: str, batch: int) -> Path:
    model = repository / source.name
    if model.exists() and not (model / CONFIG).exists():
        raise UserError(
            f"{model} is not a model of Triton: it has no {CONFIG}; choose another name with "
            "--name, or another folder with --output"
        )
    texts = {CONFIG: config(source, backend, batch)}
    if any(_has_labels(source, tensor, batch) for tensor in source.outputs):
        texts[LABELS] = "".join(f"{label}\n" for label in source.labels)
    return add_version(source, repository, texts)


def config(source: Source, backend: str, batch: int) -> str:
    """The `config.pbtxt`; batch 0 leaves batches to the client.

    Raises UserError where Triton cannot batch the graph.
    """
    parts = [_HEAD.format(name=_text(source.name), backend=_text(backend), batch=batch)]
    for field, tensors in (("input", source.inputs), ("output", source.outputs)):
        parts += [_tensor(source, field, tensor, batch) for tensor in tensors]
    return "".join([*parts, _CPU, "dynamic_batching {}\n" * (batch > 0)])


def _tensor(source: Source, field: str, tensor: Tensor, batch: int) -> str:
    dims = tensor.dims
    if batch:
        if not dims or dims[0] != -1:
            raise UserError(
                f"the {field} {tensor.name} of {source.graph} has the sizes {list(dims)}: the "
                "first must be free for batches; export the run again: sparsekit export RUN"
            )
        # Triton adds the first axis itself.
        dims = dims[1:]
    labels = ""
    if field == "output" and _has_labels(source, tensor, batch):
        labels = f"\n  label_filename: {_text(LABELS)}"
    return _TENSOR.format(
        field=field,
        name=_text(tensor.name),
        kind=_KINDS.get(tensor.kind, tensor.kind),
        dims=", ".join(map(str, dims)),
        labels=labels,
    )


def _has_labels(source: Source, tensor: Tensor, batch: int) -> bool:
    """Whether the output has one logit for each label: Triton then answers with their names.

    Without batches of its own, it would take all rows of the output for one.
    """
    answers = source.task
    return (
        batch > 0
        and not answers.per_token
        and tensor.name == "logits"
        and tensor.dims == (-1, len(source.labels))
        # Names with line breaks cannot be lines of a file.
        and not any("\n" in label for label in source.labels)
    )


def _text(value: str) -> str:
    """A string of protobuf's text format, whose escapes are those of JSON in ASCII."""
    return json.dumps(value)
