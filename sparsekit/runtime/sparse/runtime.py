"""sparsekit's own runtime on the CPU: the encoder in C, without its zeros, the rest in numpy."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError
from sparsekit.kernels.errors import KernelError
from sparsekit.runtime.base import Inputs, checked_inputs, clock
from sparsekit.runtime.sparse import operators
from sparsekit.runtime.sparse.embeddings import looked_up
from sparsekit.runtime.sparse.graph import Array, Node
from sparsekit.runtime.sparse.loading import load_graph
from sparsekit.runtime.sparse.native import Encoder, EncoderInput, compiled
from sparsekit.system import versions

# What is added to the scores of tokens that are no text, and less, leaves them no probability.
MASKED = -1e30
# Of a batch that are run at once: the kernels keep an index for each row on the stack.
MOST_ROWS = 4096


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
        loaded = load_graph(model)
        graph, found, self._embedding = loaded.graph, loaded.encoder, loaded.embedding
        self._threads, self._inputs, self._output = threads, graph.inputs, graph.output
        self._mask, self._first_token, self._source = found.mask, found.first_token, found.source
        self._encoder = Encoder(found.layers, threads)
        self._encoder_input = EncoderInput(self._encoder, self._embedding)
        self._values = graph.constants
        self._before, self._after = self._fold(loaded.before), self._fold(loaded.after)
        # What the encoder has packed is not kept a second time.
        read = {name for node in [*self._before, *self._after] for name in node.inputs}
        self._values = {name: x for name, x in self._values.items() if name in read}
        # The encoder has one workspace.
        self._lock = Lock()

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        feed = checked_inputs(inputs, self._inputs)
        batch = len(feed[self._inputs[0]])
        pieces = [
            self._run({name: ids[start : start + MOST_ROWS] for name, ids in feed.items()})
            for start in range(0, batch, MOST_ROWS)
        ]
        return np.concatenate(pieces)

    def _run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        values = self._values | dict(inputs)
        operators.run(self._before, values)
        batch, length = inputs[self._inputs[0]].shape
        mask = _contiguous(self._mask, values[self._mask], (batch, 1, 1, length))
        mask = mask.reshape(batch, length)
        if self._embedding is None:
            shape = (batch, length, self._encoder.features)
            embedded = [_contiguous(self._source, values[self._source], shape)]
        else:
            embedded = [looked_up(t, values[t.ids], batch, length) for t in self._embedding.tables]
        with self._lock:
            self._encoder_input.fill(embedded)
            first = self._encoder.run(self._encoder_input.struct, text_tokens(mask), mask)
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
            "int8": self._encoder.int8,
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
    try:
        load_graph(model)
    except UserError as error:
        return str(error)
    return None


def _contiguous(name: str, array: Array, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The array as the kernels read it; raises UserError where it is not float32 of that shape."""
    if array.shape != shape or array.dtype != np.float32:
        raise UserError(
            f"runtime=sparse: {name!r} is {array.dtype} {list(array.shape)}, expected float32 "
            f"{list(shape)}; the graph was changed: export the run again"
        )
    return np.ascontiguousarray(array)


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
