"""The section of a model card on classes: scores, confusion matrix, most frequent errors.

Or on the types of entities, or on labels of which a text may have several: their scores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sparsekit.metrics.report import confusions, read_report, unrecognized, worst_class
from sparsekit.runs.folder import RunFolder

# A wider matrix does not fit on a page; the most frequent errors are always listed.
WIDEST_MATRIX = 12
LISTED = 5
# The reports of tasks that are no classification of whole texts: title and kind of the table, and
# the key of a number of entities or rows.
_SCORED = {"entities": ("Entities", "type", "support"), "labels": ("Labels", "label", "rows")}


def class_section(source: RunFolder) -> str:
    """The section on classes, on types of entities or on labels; empty without a report of them."""
    report = read_report(source.evaluations, "validation")
    if report:
        return f"{class_tables(report)}\n\n"
    for name, (title, kind, count) in _SCORED.items():
        file = source.evaluations / f"validation_{name}.json"
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            return f"{score_table(title, kind, found['rows'], found[name], count)}\n\n"
    return ""


def class_tables(report: dict[str, Any]) -> str:
    """Markdown sections from a report of `metrics.report.class_report` on the validation split."""
    names = [cell(name) for name in report["classes"]]
    rows = [
        [name, *(_share(scores[key]) for key in ("precision", "recall", "f1")), scores["support"]]
        for name, scores in zip(names, report["classes"].values(), strict=True)
    ]
    parts = [
        "## Classes",
        f"On the {report['rows']:,} rows of the validation split, before the export:",
        _table(["class", "precision", "recall", "F1", "rows"], rows),
        _sentences(report),
    ]
    if len(names) <= WIDEST_MATRIX:
        matrix = [
            [f"**{name}**", *counts]
            for name, counts in zip(names, report["confusion"], strict=True)
        ]
        parts += [
            "Confusion matrix (a row for each true class, a column for each predicted class):",
            _table(["", *names], matrix),
        ]
    return "\n\n".join(parts)


def score_table(
    title: str, kind: str, rows: int, scores: Mapping[str, Mapping[str, Any]], count: str
) -> str:
    """A Markdown section on entity types, or on labels of which a text may have several.

    title: of the section; kind: what a row of the table is about; rows: of the validation split;
    scores: of each type or label; count: their key for the number of entities or rows.
    """
    keys = [
        key
        for key in ("precision", "recall", "f1", "average_precision")
        if any(key in each for each in scores.values())
    ]
    names = {"f1": "F1", "average_precision": "average precision"}
    table = _table(
        [kind, *(names.get(key, key) for key in keys), title.lower() if count != "rows" else count],
        [
            [cell(name), *(_share(each[key]) for key in keys), each[count]]
            for name, each in scores.items()
        ],
    )
    return "\n\n".join(
        [
            f"## {title}",
            f"On the {rows:,} rows of the validation split, before the export:",
            table,
        ]
    )


def cell(text: str) -> str:
    """`text` escaped for a cell of a Markdown table: one line, without markup.

    >>> cell("cast|plot\\n<b>")
    'cast\\\\|plot \\\\<b\\\\>'
    """
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def _sentences(report: dict[str, Any]) -> str:
    sentences = [f"{cell(sentence)}." for sentence in unrecognized(report)]
    if worst := worst_class(report):
        name, f1 = worst
        sentences.append(f"Worst class: **{cell(name)}**, F1 {f1:.4f}.")
    if errors := confusions(report, LISTED):
        listed = ", ".join(f"{cell(a)} as {cell(b)} ({count:,})" for a, b, count in errors)
        sentences.append(f"Most frequent errors: {listed}.")
    sentences.append(
        f"Expected calibration error: {report['expected_calibration_error']:.4f} "
        f"({report['calibration_bins']} bins of confidence)."
    )
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, the first column left-aligned and the others right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
