"""Undoes what the exporter's pass of the same name did: the selection of the first token.

The C encoder makes that selection itself, so it needs layers that are all alike.
"""

from __future__ import annotations

from dataclasses import replace

from sparsekit.runtime.sparse.graph import Graph, Node


def every_token(graph: Graph) -> Graph:
    """The graph without the selection of the first token within the last layer."""
    source = {node.outputs[0]: node.inputs[0] for node in graph.nodes if _selects(graph, node)}
    nodes = [
        replace(node, inputs=tuple(source.get(name, name) for name in node.inputs))
        for node in graph.nodes
        if node.outputs[0] not in source
    ]
    return Graph(nodes, graph.constants, graph.inputs, graph.outputs)


def _selects(graph: Graph, node: Node) -> bool:
    """Whether it selects the first token, and keeps the axis of tokens."""
    if node.op != "Gather" or node.outputs[0] in graph.outputs:
        return False
    index = graph.constants.get(node.inputs[1])
    if index is None or index.tolist() != [0]:
        return False
    axis = node.attributes.get("axis", 0)
    # Where heads come first, the third axis is that of tokens.
    return axis == 1 or (
        axis == 2
        and (
            _is_added_to_scores(graph, node)
            or _rotates_queries(graph, node)
            or _is_weighted_sum(graph, node.inputs[0])
        )
    )


def _is_added_to_scores(graph: Graph, node: Node) -> bool:
    """Whether it is a term of pairs of tokens, of which only the first query's is selected."""
    sums = _consumers(graph, node)
    while sums and all(each.op in ("Add", "Sum") for each in sums):
        sums = [each for node in sums for each in _consumers(graph, node)]
    return bool(sums) and all(each.op == "Softmax" for each in sums)


def _rotates_queries(graph: Graph, node: Node) -> bool:
    """Whether it is cosines or sines, of which the first query needs those of its position."""
    products = _consumers(graph, node)
    sums = [each for product in products for each in _consumers(graph, product)]
    return (
        bool(sums)
        and all(each.op == "Mul" for each in products)
        and all(each.op == "Add" for each in sums)
    )


def _is_weighted_sum(graph: Graph, name: str) -> bool:
    """Whether it is probabilities times values, however their heads are laid out."""
    node = _before_reshapes(graph, name)
    weights = _before_reshapes(graph, node.inputs[0]) if node and node.op == "MatMul" else None
    return weights is not None and weights.op == "Softmax"


def _consumers(graph: Graph, node: Node) -> list[Node]:
    return graph.consumers.get(node.outputs[0], [])


def _before_reshapes(graph: Graph, name: str) -> Node | None:
    node = graph.producers.get(name)
    while node is not None and node.op == "Reshape":
        node = graph.producers.get(node.inputs[0])
    return node
