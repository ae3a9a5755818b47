"""What a layout is made from: a checked deployment, and the tensors that its graph takes and gives.

Imports no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from sparsekit.errors import UserError, first_line
from sparsekit.onnx.sums import check_sums
from sparsekit.runtime.deployment import deployment_of, name_of
from sparsekit.runtime.encoder import label_names, read_json
from sparsekit.runtime.onnx_file import check_file
from sparsekit.runtime.tasks.base import Answers
from sparsekit.runtime.tasks.file import read_task

MODEL = "model.onnx"
# Servers use the name in paths and in URLs.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a graph; `dims` has -1 where any size is right.

    kind: the element type as ONNX names it, such as INT64.
    """

    name: str
    kind: str
    dims: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A deployment whose files are what was exported, and the name that a server gives it."""

    folder: Path
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    task: Answers
    labels: tuple[str, ...]

    @property
    def graph(self) -> Path:
        return self.folder / MODEL


def read_source(run: Path, name: str | None = None) -> Source:
    """The deployment of a run folder, or the one in `run` itself.

    name: of the model; None takes that of the run folder.

    Raises UserError for a folder without a deployment, files that were changed, and a name that no
    server takes.
    """
    folder = deployment_of(run)
    if not (folder / MODEL).is_file():
        raise UserError(
            f"{run} has no deployment: there is no {folder / MODEL}; export the run first: "
            "sparsekit export RUN"
        )
    check_sums(folder)
    check_file(folder / MODEL)
    inputs, outputs = _tensors(folder / MODEL)
    return Source(
        folder=folder,
        name=_checked(name_of(run) if name is None else name),
        inputs=inputs,
        outputs=outputs,
        task=read_task(folder),
        labels=tuple(label_names(read_json(folder / "config.json"))),
    )


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be the name of a model: it must start with a letter or digit and "
            "have only letters, digits and the characters . _ - ; set another: --name NAME"
        )
    return name


def _tensors(file: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    try:
        graph = onnx.load(file, load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise UserError(
            f"cannot read {file}: {first_line(error)}; export the run again: sparsekit export RUN"
        ) from error
    return tuple(map(_tensor, graph.input)), tuple(map(_tensor, graph.output))


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    return Tensor(
        name=value.name,
        kind=onnx.TensorProto.DataType.Name(kind.elem_type),
        dims=tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim),
    )
