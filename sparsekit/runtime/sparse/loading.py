"""Loads an ONNX file as an encoder whose arrays have consistent shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsekit.errors import UserError
from sparsekit.runtime.onnx_file import check_file
from sparsekit.runtime.sparse import operators
from sparsekit.runtime.sparse.architectures import unsupported
from sparsekit.runtime.sparse.dimensions import check_dimensions, check_shapes
from sparsekit.runtime.sparse.embeddings import Embedding, find_embedding
from sparsekit.runtime.sparse.graph import Graph, Node, graph_of, read_model
from sparsekit.runtime.sparse.inference import BATCH, LENGTH, check_model, infer_shapes
from sparsekit.runtime.sparse.matching import find_encoder
from sparsekit.runtime.sparse.score_terms import distinct_terms
from sparsekit.runtime.sparse.structure import Encoder

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, eq=False)
class LoadedGraph:
    """A graph, its encoder, and the nodes before and after it, which numpy computes.

    embedding: None where numpy computes it as part of `before`.
    """

    graph: Graph
    encoder: Encoder
    embedding: Embedding | None
    before: list[Node]
    after: list[Node]


def _embedding(graph: Graph, encoder: Encoder) -> Embedding | None:
    """The embedding that the kernels compute, which may have one norm."""
    return find_embedding(graph, encoder.source) if encoder.input_norm is None else None


def load_graph(file: Path) -> LoadedGraph:
    """The graph in `file`, with everything checked that the C kernels rely on.

    Raises UserError for a damaged file, and for a graph that this runtime does not support.
    """
    check_file(file)
    model = read_model(file)
    check_model(model)
    try:
        return _load(model)
    except UserError as error:
        # A graph of a known kind is described by that, any other by the node that does not fit.
        if reason := unsupported(file):
            raise UserError(reason) from error
        raise


def _load(model: ModelProto) -> LoadedGraph:
    graph = graph_of(model)
    encoder = find_encoder(graph)
    embedding = _embedding(graph, encoder)
    check_dimensions(encoder, embedding)
    shapes = infer_shapes(model, encoder.repeated)
    if embedding is not None and embedding.factors is not None:
        # Factors of features, not of tokens, are left to numpy.
        embedding = embedding if shapes.get(embedding.factors) == (BATCH, LENGTH, 1) else None
    check_shapes(encoder, embedding, graph.outputs, shapes)
    sources = [encoder.source] if embedding is None else [t.ids for t in embedding.tables]
    if embedding is not None and embedding.factors is not None:
        sources.append(embedding.factors)
    terms = {name for each in distinct_terms(encoder.layers) for name in each.names}
    before = graph.needed([*sources, *terms], graph.constants)
    after = graph.needed(graph.outputs, [*graph.constants, encoder.output])
    operators.check([*before, *after])
    return LoadedGraph(graph, encoder, embedding, before, after)
