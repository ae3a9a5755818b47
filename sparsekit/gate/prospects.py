"""What a gate can show with so many rows, before there is a model to compare."""

from __future__ import annotations

from collections.abc import Sequence

from sparsekit.errors import UserError
from sparsekit.gate.gate import GateConfig, checked_metrics, unit
from sparsekit.gate.statistics import FEWEST, POWER, detectable_drop, rows_needed
from sparsekit.gate.text import percent
from sparsekit.tasks.base import Task

# Shares of the rows that exactly one of two models answers correctly. How many they will be is
# known afterwards; a model of 80 % zeros in int8 changes about a tenth (docs/accuracy.md).
CHANGED = (0.05, 0.1, 0.15)


def check_rows(task: Task, config: GateConfig, rows: int) -> None:
    """Raise UserError where no model can pass: a bootstrap needs more rows."""
    for metric in checked_metrics(task, config):
        if rows < FEWEST and not _counts(task, metric):
            raise UserError(
                f"{rows} validation rows are too few to bootstrap {metric}: at least {FEWEST} are "
                "needed; add rows to the validation split"
            )


def prospects(task: Task, config: GateConfig, rows: int) -> tuple[str, bool] | None:
    """What `rows` can show of the accuracy, and whether that is `max_drop` for each of CHANGED.

    None where no accuracy of classes is tested: how much other metrics vary is known afterwards.
    """
    if not any(_counts(task, metric) for metric in checked_metrics(task, config)):
        return None
    allowed = config.max_drop / unit("accuracy")
    drops = [detectable_drop(share, rows, config.alpha) for share in CHANGED]
    shares = f"{_listed([f'{share:.0%}'[:-1] for share in CHANGED])} % of the rows change"
    shown = _listed([f"{100 * drop:.1f}" for drop in drops])
    text = (
        f"{rows:,} validation rows show a drop of {shown} points where {shares} (confidence "
        f"{percent(1 - config.alpha)}, with a chance of {POWER:.0%} if both models are equally "
        "good)"
    )
    if max(drops) <= allowed:
        return text, True
    needed = [f"{rows_needed(share, allowed, config.alpha):,}" for share in CHANGED]
    return f"{text}; {config.max_drop:g} takes about {_listed(needed)} rows", False


def _counts(task: Task, metric: str) -> bool:
    """Whether the test counts the rows that changed, as that of the accuracy of classes does."""
    return metric == "accuracy" and type(task).probabilities is not Task.probabilities


def _listed(texts: Sequence[str]) -> str:
    return f"{', '.join(texts[:-1])} or {texts[-1]}"
