"""A deployment folder, loaded once: its task, tokenizer and graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Encoding

from sparsekit.runtime.answers import BATCH, predict_outputs
from sparsekit.runtime.base import Runtime
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.tasks.base import Answer, Row
from sparsekit.runtime.tasks.file import read_task
from sparsekit.system import cores


class Deployment:
    """What answers texts.

    Args:
        folder: a deployment folder.
        kind: the runtime.
        threads: its threads; None: every core that this process may use.

    Raises:
        UserError: a file in `folder` cannot be read, or the runtime does not support the graph.
    """

    def __init__(self, folder: Path, kind: type[Runtime], threads: int | None = None) -> None:
        self.task, self.encoder = read_task(folder), TextEncoder(folder)
        self.runtime = kind(folder / "model.onnx", threads or cores())

    def encode(self, rows: Sequence[Row]) -> list[Encoding]:
        """The tokens of texts and their pairs. Raises UserError."""
        return self.task.encode(
            self.encoder, [text for text, _ in rows], [pair for _, pair in rows]
        )

    def answers(
        self, rows: Sequence[Row], encodings: Sequence[Encoding], batch: int = BATCH
    ) -> list[Answer]:
        """The answer to each of `rows`, whose tokens `encode` gave."""
        outputs = predict_outputs(self.runtime, self.task, self.encoder, encodings, batch)
        return self.task.answers(self.encoder, rows, encodings, outputs)
