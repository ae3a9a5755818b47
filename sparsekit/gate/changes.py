"""The rows that the compressed model answers differently than its baseline."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsekit.gate.scoring import Scoring


def change_counts(scoring: Scoring) -> dict[str, int] | None:
    """Rows by which of the models answers them correctly; None without one class a row."""
    ours, theirs = scoring.correct, scoring.baseline_correct
    if ours is None or theirs is None:
        return None
    return {
        "both_right": int((ours & theirs).sum()),
        "gained": int((ours & ~theirs).sum()),
        "lost": int((theirs & ~ours).sum()),
        "both_wrong": int((~ours & ~theirs).sum()),
    }


def changed_rows(scoring: Scoring) -> list[dict[str, Any]] | None:
    """The rows to which the models give different classes; None without one class a row.

    Each has its number from 0, its label, both models' answers, and the one of gained, lost and
    both_wrong that `change_counts` counts it as.
    """
    ours, theirs = (scoring.task.probabilities(each) for each in (scoring.ours, scoring.theirs))
    if ours is None or theirs is None:
        return None
    names, labels = scoring.rows.label_names, scoring.rows.labels
    answers, baselines = ours.argmax(axis=1), theirs.argmax(axis=1)
    return [
        {
            "row": int(row),
            "label": names[labels[row]],
            "model": names[answers[row]],
            "against": names[baselines[row]],
            "change": _change(answers[row] == labels[row], baselines[row] == labels[row]),
        }
        for row in np.flatnonzero(answers != baselines)
    ]


def _change(right: bool, baseline_right: bool) -> str:
    if right:
        return "gained"
    return "lost" if baseline_right else "both_wrong"
