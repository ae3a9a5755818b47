"""A deployment folder, loaded once: its task, tokenizer and graph."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Encoding

from sparsekit.runtime.answers import BATCH, predict_outputs
from sparsekit.runtime.base import Runtime
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.tasks.base import Answer, Row
from sparsekit.runtime.tasks.file import read_task
from sparsekit.system import cores

# The name of a deployment folder within a run folder.
DEPLOYMENT = "deployment"


def deployment_of(folder: Path) -> Path:
    """The deployment folder of a run folder, or `folder` itself; it may not exist."""
    inner = folder / DEPLOYMENT
    return inner if inner.is_dir() else folder


def name_of(folder: Path) -> str:
    """The name of a run by its folder or its deployment folder."""
    # Not resolved: of a link, the user sees the link's name.
    absolute = Path(os.path.abspath(folder))
    return (absolute.parent if absolute.name == DEPLOYMENT else absolute).name


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
