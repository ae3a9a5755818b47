"""Parts of a graph that depend on constants, or on the size of its inputs alone."""

from __future__ import annotations

import numpy as np

from sparsekit.runtime.sparse import operators
from sparsekit.runtime.sparse.graph import Array, Graph, Node, refused


def computed(graph: Graph, name: str, values: dict[str, Array]) -> Array:
    """The tensor `name`, from `values`, to which what it is made of is added.

    Raises UserError where it depends on more than `values`.
    """
    nodes = graph.needed([name], values)
    _check(nodes, set(values))
    operators.run(nodes, values)
    return values[name]


class SizedTensors:
    """Tensors of a graph that depend on the inputs' size alone."""

    def __init__(self, graph: Graph, names: list[str], given: dict[str, Array]) -> None:
        """Those with `names`, from tensors that are `given` by name.

        Raises UserError where one of `names` depends on the texts.
        """
        self._inputs, self._names = graph.inputs, names
        self._nodes = graph.needed(names, given)
        for node in self._nodes:
            if set(graph.inputs) & {*node.inputs} and node.op != "Shape":
                raise refused(node, "positions depend on the texts")
        _check(self._nodes, {*given, *graph.inputs})
        read = {name for node in self._nodes for name in node.inputs} | {*names}
        self._constants = {n: x for n, x in given.items() if n in read}

    def of(self, batch: int, length: int) -> dict[str, Array]:
        """Their values for `batch` sequences of `length` tokens."""
        values = dict(self._constants)
        values |= {name: np.zeros((batch, length), np.int64) for name in self._inputs}
        operators.run(self._nodes, values)
        return {name: values[name] for name in self._names}


def _check(nodes: list[Node], known: set[str]) -> None:
    operators.check(nodes)
    for node in nodes:
        if missing := [name for name in node.inputs if name and name not in known]:
            raise refused(node, f"its input {missing[0]!r} is not a constant")
        known |= {*node.outputs}
