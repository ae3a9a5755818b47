"""An ONNX file as plain nodes and arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
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


def every_token(graph: Graph) -> Graph:
    """The graph without the selection of the first token within the last layer.

    The C encoder makes that selection itself, so it needs layers that are all alike.
    """

    def added_to_scores(node: Node) -> bool:
        """Whether it is a term of pairs of tokens, of which only the first query's is selected."""
        sums = graph.consumers.get(node.outputs[0], [])
        while sums and all(each.op in ("Add", "Sum") for each in sums):
            sums = [each for node in sums for each in graph.consumers.get(node.outputs[0], [])]
        return bool(sums) and all(each.op == "Softmax" for each in sums)

    def rotates_queries(node: Node) -> bool:
        """Whether it is cosines or sines of positions, of which the first query needs the first."""
        return all(
            turned.op == "Mul" and added.op == "Add"
            for turned in graph.consumers.get(node.outputs[0], [])
            for added in graph.consumers.get(turned.outputs[0], [])
        )

    def is_weighted_sum(name: str) -> bool:
        """Whether it is probabilities times values, however their heads are laid out."""
        node = before_reshapes(name)
        weights = before_reshapes(node.inputs[0]) if node and node.op == "MatMul" else None
        return weights is not None and weights.op == "Softmax"

    def before_reshapes(name: str) -> Node | None:
        node = graph.producers.get(name)
        while node is not None and node.op == "Reshape":
            node = graph.producers.get(node.inputs[0])
        return node

    def is_selection(node: Node) -> bool:
        axis = node.attributes.get("axis", 0)
        if node.op != "Gather":
            return False
        if axis == 2 and not (
            added_to_scores(node) or is_weighted_sum(node.inputs[0]) or rotates_queries(node)
        ):
            return False
        if axis not in (1, 2):
            return False
        index = graph.constants.get(node.inputs[1])
        return index is not None and index.tolist() == [0]

    source = {node.outputs[0]: node.inputs[0] for node in graph.nodes if is_selection(node)}
    nodes = [
        replace(node, inputs=tuple(source.get(name, name) for name in node.inputs))
        for node in graph.nodes
        if not is_selection(node)
    ]
    return Graph(nodes, graph.constants, graph.inputs, graph.outputs)


def refused(node: Node, reason: str) -> UserError:
    """The error for a graph that this runtime does not support because of `node`."""
    return UserError(
        f"runtime=sparse cannot run {node.op} {node.name!r}: {reason}; run this model with "
        "runtime=onnxruntime"
    )
