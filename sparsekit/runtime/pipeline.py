"""`sparsekit.Pipeline`: a deployment, loaded once, that is called like transformers' pipeline.

Imports neither torch nor transformers.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from sparsekit.errors import UserError
from sparsekit.runtime.answers import BATCH
from sparsekit.runtime.base import check_threads
from sparsekit.runtime.choice import runtime_named
from sparsekit.runtime.deployment import Deployment, deployment_of
from sparsekit.system import expanded

Row = str | tuple[str, str] | Mapping[str, str]
# The forms of a mapping: its keys, first that of the text.
KEYS = (("text",), ("text", "text_pair"), ("question", "context"))


class Pipeline:
    """Labels texts with an exported model.

    Args:
        folder: a deployment folder as `sparsekit.export` writes it, or the run folder that holds
            it as `deployment/`.
        runtime: `"onnxruntime"`, `"openvino"`, `"deepsparse"` or `"sparse"`, sparsekit's own.
        batch_size: rows in one call of the runtime, after sorting by length.
        threads: number of threads; None: every core that this process may use.

    Raises:
        UserError: `folder` has no deployment, a file in it cannot be read, or the runtime is
            unknown or not installed.

    Example:
        ```python
        classify = sparsekit.Pipeline("deployment/")
        classify("A warm and funny film.")  # [{"label": "pos", "score": 0.98}]
        ```
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        runtime: str = "onnxruntime",
        batch_size: int = BATCH,
        threads: int | None = None,
    ) -> None:
        _check_count(batch_size, "batch_size")
        if threads is not None:
            _check_count(threads, "threads", ", or None")
            check_threads(threads, "threads")
        deployment = deployment_of(expanded(folder))
        kind = runtime_named(runtime)
        self.batch_size = batch_size
        self._deployment = Deployment(deployment, kind, threads)

    @property
    def labels(self) -> list[str]:
        """The names of the labels, in the order of the model's logits; empty where it has none."""
        return self._deployment.task.labels(self._deployment.encoder)

    def __call__(
        self, inputs: Row | Sequence[Row], *, top_k: int | None = 1, batch_size: int | None = None
    ) -> list[Any]:
        """The label of each text, or of each pair of texts.

        Args:
            inputs: one text or a list of texts. For a model of pairs, a pair is a tuple
                `(text, text_pair)` or a mapping `{"text": ..., "text_pair": ...}`, for a question
                `{"question": ..., "context": ...}` too.
            top_k: number of labels to return for each row; None: all.
            batch_size: overrides the pipeline's own.

        Returns:
            A list with one entry for each row, also for a single text: `{"label", "score"}` with
            `top_k=1`, otherwise a list of these, best first. `score` is the softmax probability.

        Raises:
            UserError: an empty list, something that is not text, or a text that is empty or not
                UTF-8.
        """
        if top_k is not None:
            _check_count(top_k, "top_k", ", or None for all labels")
        if batch_size is not None:
            _check_count(batch_size, "batch_size")
        rows = [_text_and_pair(row, f"row {i}") for i, row in enumerate(_rows(inputs), 1)]
        encodings = self._deployment.encode(rows)
        answers = self._deployment.answers(rows, encodings, batch_size or self.batch_size)
        return [self._deployment.task.ranked(answer, top_k) for answer in answers]


def _check_count(value: object, name: str, otherwise: str = "") -> None:
    """Raise UserError for what is no whole number of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name} is {value!r}, it must be a whole number, at least 1{otherwise}")


def _rows(inputs: object) -> Iterable[object]:
    """The rows of a call: `inputs` itself where it is one text or pair."""
    if isinstance(inputs, str | tuple | Mapping):
        return [inputs]
    if isinstance(inputs, Iterable) and not isinstance(inputs, bytes | bytearray):
        return inputs
    raise UserError(f"the pipeline takes a text or a list of texts, not {_kind(inputs)}")


def _text_and_pair(row: object, where: str) -> tuple[Any, Any]:
    """A row's text and its pair, which is None for a single text; the encoder checks both."""
    if isinstance(row, Mapping):
        names = next((names for names in KEYS if row.keys() == set(names)), None)
        if names is None:
            keys = ", ".join(map(repr, row)) or "none"
            raise UserError(
                f'{where} has the keys {keys}; write {{"text": ...}}, {{"text": ..., '
                '"text_pair": ...}, or {"question": ..., "context": ...}'
            )
        text, pair = (*(row[name] for name in names), None)[:2]
    elif isinstance(row, tuple):
        if len(row) != 2:
            raise UserError(f"{where}: a pair has two texts, this one has {len(row)}: {row!r}")
        text, pair = row
    else:
        text, pair = row, None
    for part in (text, pair or ""):
        if not isinstance(part, str):
            raise UserError(f"{where} is {_kind(part)}, not a text or a pair (text, text_pair)")
    return text, pair


def _kind(value: object) -> str:
    """`value` as an error message describes it: its type, shortened, and how to make it text."""
    if isinstance(value, bytes | bytearray):
        return "bytes (decode them: data.decode())"
    return "None" if value is None else f"the {type(value).__name__} {reprlib.repr(value)}"
