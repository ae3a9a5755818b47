"""Metrics through `evaluate`, from the modules in this folder, so that no network is needed.

One file is one metric, named as on the Hub (`evaluate.load("accuracy")` would fetch code from
there); a new file is a new metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError

_FOLDER = Path(__file__).parent
_SHORT = {"matthews": "matthews_correlation"}


def known() -> list[str]:
    """The names that `compute` accepts, besides `matthews` for short."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem != "__init__")


def check(names: Sequence[str]) -> None:
    """Raise UserError for a name that is no metric, before anything is trained for it."""
    if not names:
        raise UserError(f"dataset.metrics is empty; name at least one of {', '.join(known())}")
    for name in names:
        if _SHORT.get(name, name) not in known():
            raise UserError(f"dataset.metrics: {name!r} is not known; known: {', '.join(known())}")


def compute(
    names: Sequence[str], logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> dict[str, float]:
    """The named metrics of the predictions argmax(logits).

    logits [rows, labels], labels [rows]; the label count (binary or macro F1) is that of `logits`.
    Adds `combined_score`, the mean, when there are several names, as GLUE does.
    """
    import evaluate  # seconds: it imports torch and transformers

    check(names)
    _check_rows(logits, labels)
    predictions = logits.argmax(axis=1)
    values: dict[str, float] = {}
    for name in names:
        metric = evaluate.load(str(_FOLDER / f"{_SHORT.get(name, name)}.py"), keep_in_memory=True)
        result = metric.compute(
            predictions=predictions, references=labels, num_labels=logits.shape[1]
        )
        values.update({key: float(value) for key, value in result.items()})
    if len(names) > 1:
        values["combined_score"] = sum(values.values()) / len(values)
    return values


def _check_rows(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} do not match")
    if not len(labels):
        raise UserError("metrics need at least one row, the split has none")
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise UserError(
            f"the logits of row {int(finite.argmin())} are not finite: training diverged; "
            "lower recipe.init_lr or train in fp32"
        )
