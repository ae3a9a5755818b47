"""sparsekit's own runtime on the CPU: C kernels for the encoder, which skip zeros, and numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError
from sparsekit.kernels.errors import KernelError
from sparsekit.runtime.base import Inputs, checked_inputs, clock
from sparsekit.runtime.sparse import operators
from sparsekit.runtime.sparse.dense_matmul import matmul
from sparsekit.runtime.sparse.embeddings import checked_factors, checked_ids
from sparsekit.runtime.sparse.encoder_input import EncoderInput
from sparsekit.runtime.sparse.graph import Array, Node
from sparsekit.runtime.sparse.loading import load_graph
from sparsekit.runtime.sparse.native import Encoder, compiled
from sparsekit.runtime.sparse.relative_positions import DistanceTables
from sparsekit.runtime.sparse.score_terms import score_terms, text_tokens, unmasked
from sparsekit.system import versions

# Scores to which this or less is added get the probability 0.
MASKED = -1e30
# Larger batches are split: the kernels keep an index for each row on the stack.
MOST_ROWS = 4096
# And so are those of which masks have more pairs of tokens, whose values take 8 bytes each.
MOST_PAIRS = 1 << 24
_OPERATORS = operators.OPERATORS | {"MatMul": matmul}


@dataclass(frozen=True, eq=False)
class _Sized:
    """Values of the graph that depend on the inputs' size (batch, length) alone, by name, and those
    of the scores' terms as the kernels read them."""

    size: tuple[int, int]
    values: dict[str, Array]
    kept: dict[str, Array | None]


class SparseRuntime:
    """A BERT-like encoder with a head on the first token or on all, as `qdq` or in float32."""

    name = "sparse"
    forms: tuple[str, ...] = ("qdq",)

    @staticmethod
    def missing() -> str | None:
        try:
            compiled()
        except KernelError as error:
            return str(error)
        return None

    def __init__(self, model: Path, threads: int) -> None:
        if problem := self.missing():
            raise UserError(f"runtime=sparse has no kernels here: {problem}")
        loaded = load_graph(model)
        graph, encoder, self._embedding = loaded.graph, loaded.encoder, loaded.embedding
        self._threads, self._inputs, self._outputs = threads, graph.inputs, graph.outputs
        self._source, self._read = encoder.source, encoder.output
        self._encoder = Encoder(encoder, threads)
        self._distances = DistanceTables(graph, self._encoder.positions)
        self._encoder_input = EncoderInput(self._encoder, self._embedding, encoder.input_norm)
        self._values = graph.constants
        before, self._after = self._fold(loaded.before), self._fold(loaded.after)
        self._by_size, self._by_text = _by_size(before, self._inputs)
        # The head of a decoder looks for the token it reads in the ids, not in the mask.
        of_ids = _computed_from(before, {"input_ids"})
        self._chosen_by_ids = any(of_ids & {*node.inputs} for node in self._after)
        self._sized = _Sized((0, 0), {}, {})
        # The encoder has its own copy of its weights.
        read = {name for node in [*before, *self._after] for name in node.inputs}
        read |= {name for terms in self._encoder.terms for name in terms.names}
        if self._embedding is not None and self._embedding.factors is not None:
            read.add(self._embedding.factors)
        self._values = {name: x for name, x in self._values.items() if name in read}
        # The encoder has a single workspace.
        self._lock = Lock()

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        return self.outputs(inputs)[0]

    def outputs(self, inputs: Inputs) -> tuple[npt.NDArray[np.float32], ...]:
        feed = checked_inputs(inputs, self._inputs)
        batch, length = feed[self._inputs[0]].shape
        rows = MOST_ROWS
        if any(terms.excluded for terms in self._encoder.terms):
            rows = max(1, min(rows, MOST_PAIRS // length**2))
        pieces = [
            self._run({name: ids[start : start + rows] for name, ids in feed.items()})
            for start in range(0, batch, rows)
        ]
        return tuple(np.concatenate(each) for each in zip(*pieces, strict=True))

    def _run(self, inputs: Inputs) -> tuple[npt.NDArray[np.float32], ...]:
        batch, length = inputs[self._inputs[0]].shape
        sized = self._of_size(inputs, (batch, length))
        values = self._values | dict(inputs) | sized.values
        operators.run(self._by_text, values)
        terms = [
            score_terms(each, values, heads, (batch, length), sized.kept)
            for each, heads in self._encoder.terms.items()
        ]
        tokens = np.full(batch, length, np.int64)
        if not self._chosen_by_ids:
            tokens = text_tokens(np.logical_or.reduce([unmasked(each, MASKED) for each in terms]))
        if self._embedding is None:
            shape = (batch, length, self._encoder.features)
            embedded = [_contiguous(self._source, values[self._source], shape)]
        else:
            embedded = [
                checked_ids(t, values[t.ids], batch, length) for t in self._embedding.tables
            ]
        factors = self._factors(values, tokens, length)
        with self._lock:
            self._encoder_input.fill(embedded, factors)
            distances = self._distances.of(int(tokens.max()))
            values[self._read] = self._encoder.run(
                self._encoder_input.struct, tokens, terms, distances
            )
        operators.run(self._after, values, _OPERATORS)
        return tuple(values[name] for name in self._outputs)

    def _factors(
        self, values: dict[str, Array], tokens: npt.NDArray[np.int64], length: int
    ) -> Array | None:
        """What embeddings are multiplied by, [batch, length]; None where that is 1."""
        if self._embedding is None or self._embedding.factors is None:
            return None
        name = self._embedding.factors
        factors = checked_factors(name, values[name], len(tokens), length)
        padding = np.arange(length) >= tokens[:, None]
        return None if (padding | (factors == 1)).all() else factors

    def _of_size(self, inputs: Inputs, size: tuple[int, int]) -> _Sized:
        """What depends on the inputs' size alone; that of the last one is kept."""
        sized = self._sized
        if sized.size != size:
            values = self._values | dict(inputs)
            operators.run(self._by_size, values)
            made = {name: values[name] for node in self._by_size for name in node.outputs}
            names = {name for terms in self._encoder.terms for name in terms.names}
            kept = dict.fromkeys(names & {*made, *self._values})
            sized = self._sized = _Sized(size, made, kept)
        return sized

    def seconds(self, inputs: Inputs) -> float:
        return clock(self.run, inputs)

    def describe(self) -> dict[str, Any]:
        return {
            "version": versions()["sparsekit"],
            "threads": self._threads,
            "int8": self._encoder.int8,
            "kernels": self._encoder.variant,
        }

    def _fold(self, nodes: list[Node]) -> list[Node]:
        """Compute the nodes that depend on constants only; returns the others."""
        remaining = []
        for node in nodes:
            if all(name in self._values for name in node.inputs if name):
                operators.run([node], self._values)
            else:
                remaining.append(node)
        return remaining


def refusal(model: Path) -> str | None:
    """Why this runtime does not support the graph in the file `model`; None where it does."""
    try:
        load_graph(model)
    except UserError as error:
        return str(error)
    return None


def _by_size(nodes: Sequence[Node], inputs: Sequence[str]) -> tuple[list[Node], list[Node]]:
    """The nodes that depend on the shapes of `inputs` alone, and the others."""
    varying = _computed_from(nodes, set(inputs))
    by_text = [node for node in nodes if varying & {*node.outputs}]
    return [node for node in nodes if not varying & {*node.outputs}], by_text


def _computed_from(nodes: Sequence[Node], inputs: set[str]) -> set[str]:
    """`inputs`, and the tensors that `nodes` compute from their values; a shape is no value."""
    names = set(inputs)
    for node in nodes:
        if names & {*node.inputs} and not (node.op == "Shape" and node.inputs[0] in inputs):
            names |= {*node.outputs}
    return names


def _contiguous(name: str, array: Array, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The array, contiguous for the kernels; raises UserError unless it is float32 of `shape`."""
    if array.shape != shape or array.dtype != np.float32:
        raise UserError(
            f"runtime=sparse: {name!r} is {array.dtype} {list(array.shape)}, expected float32 "
            f"{list(shape)}; the graph was changed: export the run again"
        )
    return np.ascontiguousarray(array)
