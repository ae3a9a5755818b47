"""Graphs in which each layer has int8 weights of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnx import GraphProto, NodeProto, TensorProto

from sparsekit.runtime.sparse.graph import read_model


def with_own_weights(file: Path) -> bytes:
    """The model in `file` with an int8 initializer for each input of a node that reads it.

    Layers of ALBERT share theirs. onnxruntime converts int8 weights to uint8 once for each reader,
    under the same name, and refuses the second.
    """
    model = read_model(file)
    graph = model.graph
    shared = {each.name: each for each in graph.initializer if each.data_type == TensorProto.INT8}
    seen: set[str] = set()
    for index, (node, i) in enumerate(_readers(graph, set(shared))):
        name = node.input[i]
        if name not in seen:
            seen.add(name)
            continue
        copy = graph.initializer.add()
        copy.CopyFrom(shared[name])
        copy.name = f"{name}.reader{index}"
        node.input[i] = copy.name
    data: bytes = model.SerializeToString()
    return data


def _readers(graph: GraphProto, names: set[str]) -> Iterator[tuple[NodeProto, int]]:
    """The nodes that read one of the tensors, each with the index of that input."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in names:
                yield node, i
