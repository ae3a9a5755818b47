"""Recognizes the activation between two Linear layers by what it computes.

Exporters write one function in several ways: GELU's approximation by tanh is one node, or eight.
"""

from __future__ import annotations

import numpy as np

from sparsekit.errors import UserError
from sparsekit.runtime.sparse import operators
from sparsekit.runtime.sparse.graph import Array, Graph

# Of one tensor and scalars.
_ELEMENTWISE = {"Add", "Div", "Erf", "Gelu", "Mul", "Neg", "Pow", "Relu", "Sigmoid", "Sub", "Tanh"}
_PROBES = np.linspace(-8, 8, 513, dtype=np.float32)
# The two forms of GELU differ by 5e-4.
_TOLERANCE = 1e-5

_KNOWN: dict[str, Array] = {
    "gelu": operators.gelu(_PROBES),
    "gelu_tanh": operators.gelu(_PROBES, b"tanh"),
    "relu": np.maximum(_PROBES, 0),
    "silu": _PROBES / (1 + np.exp(-_PROBES)),
}
ACTIVATIONS = tuple(_KNOWN)


def find_activation(graph: Graph, output: str) -> tuple[str, str] | None:
    """The name of the activation that computes `output`, and its input.

    None where `output` is not one of ACTIVATIONS of a single tensor.
    """
    source = _source(graph, output)
    if source is None or source == output:
        return None
    values = graph.constants | {source: _PROBES}
    try:
        operators.run(graph.needed([output], values), values)
    except UserError:
        return None
    for name, expected in _KNOWN.items():
        found = values[output]
        if found.shape == expected.shape and np.abs(found - expected).max() < _TOLERANCE:
            return name, source
    return None


def _source(graph: Graph, output: str) -> str | None:
    """The only tensor that `output` is an elementwise function of; None where there are several."""
    sources, pending = set(), [output]
    while pending:
        name = pending.pop()
        node = graph.producers.get(name)
        if node is None or node.op not in _ELEMENTWISE or not _of_scalars(graph, node.inputs):
            sources.add(name)
        else:
            pending += [each for each in node.inputs if each not in graph.constants]
    return sources.pop() if len(sources) == 1 else None


def _of_scalars(graph: Graph, inputs: tuple[str, ...]) -> bool:
    """Whether all constants among the inputs are scalars: the bias of a Linear layer is none."""
    return all(graph.constants[name].ndim == 0 for name in inputs if name in graph.constants)
