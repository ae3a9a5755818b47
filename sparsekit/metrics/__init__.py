"""Classification metrics: scikit-learn's, through a local `evaluate` module, without a network."""

from __future__ import annotations

import difflib
import functools
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError
from sparsekit.metrics.table import ALIASES, METRICS

_MODULE = Path(__file__).parent / "classification.py"


def known() -> list[str]:
    """The names that `compute` returns; it also accepts the aliases of `table.ALIASES`."""
    return sorted(METRICS)


def check(names: Sequence[str]) -> None:
    """Raise UserError for a name that is not a metric, before anything is trained for it."""
    if not names:
        raise UserError(f"dataset.metrics is empty; name at least one of {', '.join(known())}")
    for name in names:
        if ALIASES.get(name, name) not in METRICS:
            hint = f"did you mean {near}? " if (near := _nearest(str(name))) else ""
            raise UserError(
                f"dataset.metrics: {name!r} is not known; {hint}known: {', '.join(known())}"
            )


def check_cache() -> None:
    """Raise UserError where `evaluate` cannot write its modules, which it does as it computes."""
    from evaluate import config  # seconds: it imports torch and transformers

    folder = Path(config.HF_MODULES_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"the metrics cannot be computed, because {folder} cannot be written: {error}; set "
            "HF_HOME to a folder that can"
        ) from error


def _nearest(name: str) -> str | None:
    """The metric that `name` probably means: by its beginning, a part of it, or its spelling."""
    # As scikit-learn calls its functions: roc_auc_score.
    plain = name.lower().replace("-", "_").removesuffix("_score")
    names = [*METRICS, *ALIASES]
    begun = [known for known in names if known.startswith(plain)]
    if len(plain) > 2 and (found := begun or [known for known in names if plain in known]):
        return min(found, key=len)
    return next(iter(difflib.get_close_matches(plain, names, n=1, cutoff=0.7)), None)


def check_classes(names: Sequence[str], classes: int) -> None:
    """Raise UserError for a metric that says nothing about so few classes."""
    for name in names:
        top = re.fullmatch(r"top_(\d+)_accuracy", name)
        if top and int(top[1]) >= classes:
            raise UserError(
                f"dataset.metrics: {name} is always 1 for {classes} classes; name accuracy, or a "
                f"top_k_accuracy with k below {classes}"
            )


def computed_names(names: Sequence[str]) -> list[str]:
    """The names under which `compute` returns the metrics `names`.

    >>> computed_names(["accuracy", "mcc"]), computed_names(["log_loss"])
    (['accuracy', 'matthews_correlation', 'combined_score'], ['log_loss'])
    """
    canonical = list(dict.fromkeys(ALIASES.get(name, name) for name in names))
    return [*canonical, "combined_score"] if len(_averaged(canonical)) > 1 else canonical


def _averaged(names: Iterable[str]) -> list[str]:
    return [name for name in names if METRICS[name].higher_is_better]


def compute(
    names: Sequence[str], logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> dict[str, float]:
    """The named metrics of logits [rows, classes] against labels [rows].

    Predicted is argmax(logits); the number of classes (binary or macro F1) is that of `logits`.
    Where higher is better in two or more of them, `combined_score` is their mean, as in GLUE.
    Raises UserError for an unknown name, no rows, logits that are not finite, and a metric that is
    undefined for these labels.
    """
    check(names)
    _check_rows(logits, labels)
    check_classes(names, logits.shape[1])
    canonical = list(dict.fromkeys(ALIASES.get(name, name) for name in names))
    # Not `compute`, which copies the rows to Arrow and back: the gate scores them 2,000 times.
    values: dict[str, float] = _module()._compute(
        np.asarray(logits, dtype=np.float64), labels, canonical
    )
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"dataset.metrics: {name} is undefined for {len(labels)} rows with "
                f"{len(np.unique(labels))} of {logits.shape[1]} classes; name another metric, or "
                "add rows of the missing classes to the split"
            )
    averaged = [values[name] for name in _averaged(values)]
    if len(averaged) > 1:
        values["combined_score"] = sum(averaged) / len(averaged)
    return values


@functools.cache
def _module() -> Any:
    import evaluate  # seconds: it imports torch and transformers

    return evaluate.load(str(_MODULE), keep_in_memory=True)


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
