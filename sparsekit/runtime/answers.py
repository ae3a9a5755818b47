"""From texts to answers, with the tokenizer, graph and task of a deployment folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from sparsekit.errors import UserError
from sparsekit.runtime.base import Computing, Runtime
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.tasks.base import Answer, Answers, Output
from sparsekit.runtime.tasks.file import read_task
from sparsekit.system import cores

BATCH = 32


def predict_outputs(
    runtime: Computing,
    answers: Answers,
    encoder: TextEncoder,
    encodings: Sequence[Encoding],
    batch: int = BATCH,
) -> dict[str, Output]:
    """The graph's outputs by name, in the order of the rows; see `runtime.tasks.base.Output`.

    Batches have rows of similar length. What the graph computes for padding is left out.
    """
    order = sorted(range(len(encodings)), key=lambda row: len(encodings[row]))
    names = answers.outputs
    found: dict[str, dict[int, npt.NDArray[np.float32]]] = {name: {} for name in names}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        outputs = runtime.outputs(encoder.batch([encodings[row] for row in rows]))
        _check_count(runtime, outputs, names)
        for name, output in zip(names, outputs, strict=True):
            _check_width(output, answers.width(encoder))
            for row, values in zip(rows, output, strict=True):
                if answers.per_token:
                    values = values[encoder.tokens(len(encodings[row]), len(values))]
                found[name][row] = values
    return {name: _in_order(name, rows, answers.per_token) for name, rows in found.items()}


def _in_order(name: str, found: Mapping[int, npt.NDArray[np.float32]], per_token: bool) -> Output:
    """The values of the rows 0, 1, ..., which must be finite."""
    each = [found[row] for row in range(len(found))]
    for row, values in enumerate(each):
        if not np.isfinite(values).all():
            raise UserError(
                f"the {name} of text {row + 1} of {len(each)} are NaN or infinite: the "
                "model's weights are damaged; train or export the run again"
            )
    return each if per_token else np.stack(each)


def _check_count(runtime: Computing, outputs: Sequence[object], names: Sequence[str]) -> None:
    if len(outputs) != len(names):
        raise UserError(
            f"runtime={runtime.name} gives {len(outputs)} of the {len(names)} outputs "
            f"{', '.join(names)}: run this model with runtime=onnxruntime"
        )


def _check_width(output: npt.NDArray[np.float32], width: int | None) -> None:
    if width is not None and output.shape[-1] != width:
        raise UserError(
            f"the graph has {output.shape[-1]} labels, its config.json names {width}: they belong "
            "to different models; export the run again"
        )


def predict(
    deployment: Path,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    kind: type[Runtime] = OnnxRuntime,
) -> list[Answer]:
    """The answer of the deployment's task to each text, or to each text and its pair.

    Of a classifier: `label`, `score` (its probability) and all `scores`.
    """
    answers, encoder = read_task(deployment), TextEncoder(deployment)
    # First, so that a mistake in a text is reported before the model is loaded.
    encodings = answers.encode(encoder, texts, pairs)
    runtime = kind(deployment / "model.onnx", cores())
    outputs = predict_outputs(runtime, answers, encoder, encodings)
    seconds: Sequence[str | None] = [None] * len(texts) if pairs is None else pairs
    rows = list(zip(texts, seconds, strict=True))
    return answers.answers(encoder, rows, encodings, outputs)
