"""What `sparsekit compress` says of its trials: a table, and which was chosen and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sparsekit.benchmark.advice import SPARSE_KERNELS
from sparsekit.compare.conclusion import Conclusion
from sparsekit.gate.text import amount, interval, percent, worsens
from sparsekit.metrics.difference import shown_difference
from sparsekit.sweep.compression import Search, Trial, closest

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = ("removed", "difference from the dense model", "allowed drop", "latency", "outcome")


def conclusion(asked: Search, trials: Sequence[Trial]) -> Conclusion:
    """Which trial is deployed and why, for the page of a search."""
    rows = [
        (trial.removed, _interval(trial), _drop(trial), _latency(trial), _outcome(asked, trial))
        for trial in trials
    ]
    return Conclusion(sentences=list(_sentences(asked, trials)), headings=HEADINGS, rows=rows)


def _sentences(asked: Search, trials: Sequence[Trial]) -> Iterator[str]:
    best = closest(trials, asked.max_latency)
    if best is None:
        yield "No trial was compared with the dense model."
    elif best.fits(asked.max_latency):
        asked_for = "" if asked.max_latency is None else f", {asked.max_latency:g} ms are allowed"
        yield (
            f"Chosen: {best.removed} removed ({best.run.path.name}), because it is the first trial "
            f"that passes its gate, and the trials begin with the smallest model. {_tested(best)} "
            f"Its median latency is {_latency(best)}{asked_for}."
        )
    else:
        yield f"No trial meets what was asked. {_shortfall(asked, best)} {_tested(best)}"
    yield (
        f"Each gate has alpha {asked.trial_alpha:g}, which is {asked.alpha:g} divided by the "
        f"{len(asked.candidates)} candidates, because the first that passes ends the search. The "
        f"risk of passing a model that drops by the allowed drop is at most {asked.alpha:g} in all."
    )


def _shortfall(asked: Search, best: Trial) -> str:
    if best.passed:
        return (
            f"{best.removed} removed passes its gate and takes {_latency(best)}, more than the "
            f"{asked.max_latency:g} ms that are allowed; models from which less is removed are no "
            "faster, so that none was trained."
        )
    return f"The closest is {best.removed} removed, with the highest lower bound."


def _tested(trial: Trial) -> str:
    """What the gate of a compared trial found."""
    if trial.metric is None:
        return ""
    confidence = "" if trial.alpha is None else f" (confidence {percent(1 - trial.alpha)})"
    shown = "" if trial.passed else "it is not shown that "
    sentence = (
        f"{shown}{trial.metric} {worsens(trial.metric)} by less than {_drop(trial)}{confidence}, "
        f"with a difference of {_interval(trial)}."
    )
    return f"Its gate: {sentence}"


def _outcome(asked: Search, trial: Trial) -> str:
    if trial.fits(asked.max_latency):
        return "chosen"
    if trial.passed:
        return "passed, too slow"
    return trial.stopped or "did not pass"


def _interval(trial: Trial) -> str:
    if trial.metric is None:
        return "-"
    values = {name: getattr(trial, name) for name in ("difference", "lower", "upper")}
    return interval(trial.metric, values)


def _drop(trial: Trial) -> str:
    if trial.metric is None or trial.max_drop is None:
        return "-"
    return amount(trial.metric, trial.max_drop)


def _latency(trial: Trial) -> str:
    if trial.latency is None:
        return "-"
    return f"{trial.latency:.2f} ms on {trial.runtime}"


def advice(asked: Search, best: Trial) -> str:
    """What may make a model fast enough that is as good as was asked, or nothing."""
    if not best.passed or best.runtime is None or asked.remove == "structures":
        return ""
    if best.runtime in SPARSE_KERNELS:
        return ""
    return (
        f"; {best.runtime} multiplies zeros too: add --remove structures, which makes the matrices "
        "smaller, or runtime=sparse, which skips zeros"
    )


def table(trials: Sequence[Trial]) -> Table:
    """The trials, a line each."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    view = Table("removed", "worse by less than", "difference", "latency", "", box=box.SIMPLE_HEAD)
    for trial in trials:
        metric, drop, difference = trial.metric, "-", "-"
        if metric is not None and trial.lower is not None:
            drop = amount(metric, max(-trial.lower, 0.0))
        if metric is not None and trial.difference is not None:
            difference = amount(metric, shown_difference(metric, trial.difference), "+.3g")
        latency = "-" if trial.latency is None else f"{trial.latency:.2f} ms"
        state = "passed" if trial.passed else trial.stopped or "did not pass"
        view.add_row(trial.removed, drop, difference, latency, Text(state))
    return view
