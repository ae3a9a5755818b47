"""sparsekit's own runtime on the CPU: the encoder in C, without its zeros, the rest in numpy."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError
from sparsekit.kernels.errors import KernelError
from sparsekit.runtime.base import Inputs, clock
from sparsekit.runtime.sparse import operators
from sparsekit.runtime.sparse.embeddings import find_embedding, looked_up
from sparsekit.runtime.sparse.graph import Array, Node, read_graph
from sparsekit.runtime.sparse.matching import find_encoder
from sparsekit.runtime.sparse.native import Embedded, Encoder, compiled
from sparsekit.system import versions

# What is added to the scores of tokens that are no text, and less, leaves them no probability.
MASKED = -1e30


class SparseRuntime:
    """An encoder and classifier of BERT's kind, in the form `qdq` or in float32."""

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
        if why := self.missing():
            raise UserError(f"runtime=sparse compiles its kernels, and cannot: {why}")
        graph = read_graph(model)
        found = find_encoder(graph)
        self._threads, self._inputs, self._output = threads, graph.inputs, graph.output
        self._mask, self._first_token = found.mask, found.first_token
        self._embedding = find_embedding(graph, found.source)
        self._encoder = Encoder(found.layers, threads)
        self._embedded = Embedded(self._encoder, self._embedding)
        self._source = found.source
        sources = (
            [found.source] if self._embedding is None else [t.ids for t in self._embedding.tables]
        )
        before = graph.needed([*sources, found.mask], graph.constants)
        after = graph.needed([graph.output], [*graph.constants, found.first_token])
        operators.check([*before, *after])
        self._values = graph.constants
        self._before, self._after = self._fold(before), self._fold(after)
        # What the encoder has packed is not kept a second time.
        read = {name for node in [*self._before, *self._after] for name in node.inputs}
        self._values = {name: x for name, x in self._values.items() if name in read}
        # The encoder has one workspace.
        self._lock = Lock()

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        values = self._values | {name: inputs[name] for name in self._inputs}
        operators.run(self._before, values)
        batch, length = inputs["input_ids"].shape
        mask = np.ascontiguousarray(values[self._mask].reshape(batch, length), np.float32)
        if self._embedding is None:
            embedded = [np.ascontiguousarray(values[self._source], np.float32)]
        else:
            embedded = [looked_up(t, values[t.ids], batch, length) for t in self._embedding.tables]
        with self._lock:
            self._embedded.fill(embedded)
            first = self._encoder.run(self._embedded.struct, text_tokens(mask), mask)
        values[self._first_token] = first
        operators.run(self._after, values)
        logits: npt.NDArray[np.float32] = values[self._output]
        return logits

    def seconds(self, inputs: Inputs) -> float:
        return clock(self.run, inputs)

    def describe(self) -> dict[str, Any]:
        return {
            "version": versions()["sparsekit"],
            "threads": self._threads,
            "int8": self._encoder.in_bytes,
        }

    def _fold(self, nodes: list[Node]) -> list[Node]:
        """Compute the nodes that only constants lead to; returns the others."""
        left = []
        for node in nodes:
            if all(name in self._values for name in node.inputs if name):
                operators.run([node], self._values)
            else:
                left.append(node)
        return left


def refusal(model: Path) -> str | None:
    """Why this runtime cannot run the graph in the file `model`; None where it can."""
    graph = read_graph(model)
    try:
        find_encoder(graph)
    except UserError as error:
        return str(error)
    return None


def text_tokens(mask: Array) -> npt.NDArray[np.int64]:
    """How many tokens of each row [batch, length] count: up to the last one that is not masked.

    Those behind it are read by nobody: their probability is 0. In a row of masked ones all count,
    since softmax then gives each the same.

    >>> text_tokens(np.array([[0, -2e38, 0, -3e38], [-3e38, -3e38, -3e38, -3e38]])).tolist()
    [3, 4]
    """
    counted = mask > MASKED
    length = mask.shape[1]
    last = length - np.argmax(counted[:, ::-1], axis=1)
    tokens: npt.NDArray[np.int64] = np.where(counted.any(axis=1), last, length).astype(np.int64)
    return tokens
