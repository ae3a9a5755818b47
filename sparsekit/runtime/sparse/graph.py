"""An ONNX file as plain nodes and arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Node:
    """One operator; absent inputs have the name ""."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Graph:
    """Nodes in order, the producer and the consumers of each tensor, and constants by name."""

    def __init__(
        self,
        nodes: Iterable[Node],
        constants: dict[str, Array],
        inputs: list[str],
        outputs: list[str],
    ) -> None:
        self.nodes = list(nodes)
        self.constants = constants
        self.inputs = inputs
        self.outputs = outputs
        self.producers = {name: node for node in self.nodes for name in node.outputs}
        self.consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                self.consumers.setdefault(name, []).append(node)

    def needed(self, targets: Iterable[str], given: Iterable[str]) -> list[Node]:
        """The nodes that compute `targets` from `given`, in order."""
        pending, ready = list(targets), set(given)
        computed: set[str] = set()
        while pending:
            name = pending.pop()
            node = self.producers.get(name)
            if name in ready or node is None:
                continue
            ready.update(node.outputs)
            computed.update(node.outputs)
            pending.extend(node.inputs)
        return [node for node in self.nodes if computed & set(node.outputs)]


def read_model(file: Path) -> ModelProto:
    """The model in a file that `onnx_file.check_file` has checked; reads no other file."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(file, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise UserError(
            f"{file} is not a valid ONNX file: {first_line(error)}; it may be truncated: export "
            "the run again: sparsekit export RUN"
        ) from error


def graph_of(model: ModelProto) -> Graph:
    """The graph of a model that `inference.check_model` has checked."""
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            (value,) = attributes.values()
            array = numpy_helper.to_array(value) if hasattr(value, "dims") else np.asarray(value)
            constants[node.output[0]] = array
            continue
        nodes.append(
            Node(node.name, node.op_type, tuple(node.input), tuple(node.output), attributes)
        )
    inputs = [value.name for value in graph.input if value.name not in constants]
    return Graph(nodes, constants, inputs, [value.name for value in graph.output])


def refused(node: Node, reason: str) -> UserError:
    """The error for a graph that this runtime does not support because of `node`."""
    return UserError(
        f"runtime=sparse cannot run {node.op} {node.name!r}: {reason}; run this model with "
        "runtime=onnxruntime"
    )
