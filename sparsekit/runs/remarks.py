"""What a run's scores show that a user should not miss, and what to try. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sparsekit.metrics.report import read_report, unrecognized
from sparsekit.metrics.table import as_text, higher_is_better, is_share, limits
from sparsekit.runs.folder import RunFolder
from sparsekit.sparsity.pruned import FEW_ZEROS, is_pruned

SPLITS = ("validation", "test")
RECALL_0 = 3  # classes of recall 0 that are named
# A student so much below its teacher has more to learn than compression explains.
FAR = 0.05
# A score below this is next to nothing.
NOTHING = 0.05
# Sparsities to go back to.
_LOWER = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def remarks(run: RunFolder, summary: Mapping[str, Any]) -> list[str]:
    """Sentences about classes that are never recognized, a student far below its teacher, or both
    scoring nothing.

    The last sentence says what to try, as overrides of the run's own config.
    """
    missed = list(_missed_classes(run))
    found = [*missed, *_behind_teacher(summary)] or [*_nothing_learnt(summary)]
    if not found:
        return []
    config = run.config if run.config_file.is_file() else {}
    return [*found, f"What may help: {', '.join(_advice(config, summary, bool(missed)))}."]


def _missed_classes(run: RunFolder) -> Iterator[str]:
    for split in SPLITS:
        report = read_report(run.evaluations, split)
        sentences = unrecognized(report) if report else []
        yield from (f"{split}: {sentence}." for sentence in sentences[:RECALL_0])
        if more := sentences[RECALL_0:]:
            yield f"{split}: recall is 0 of {len(more)} more classes, see evaluation/."


def _behind_teacher(summary: Mapping[str, Any]) -> Iterator[str]:
    student = summary.get("metrics", {}).get("validation", {})
    teacher = summary.get("teacher", {}).get("validation", {})
    for name, theirs in teacher.items():
        ours = student.get(name)
        if ours is None or not (is_share(name) and higher_is_better(name)):
            continue
        if theirs - ours >= FAR:
            yield (
                f"validation: the student's {name} is {100 * (theirs - ours):.1f} points below its "
                f"teacher's, {as_text(name, ours)} against {as_text(name, theirs)}."
            )
            return


def _nothing_learnt(summary: Mapping[str, Any]) -> Iterator[str]:
    """A score such as no entity found, or numbers that have nothing to do with the expected."""
    for name, score in summary.get("metrics", {}).get("validation", {}).items():
        if limits(name) and higher_is_better(name) and score < NOTHING:
            yield f"validation: {name} is {as_text(name, score)}, so next to nothing was learnt."
            return


def _advice(config: Mapping[str, Any], summary: Mapping[str, Any], missed: bool) -> Iterator[str]:
    """Changes to try, each with the override that makes it."""
    training, recipe = config.get("training") or {}, config.get("recipe") or {}
    steps, epochs = training.get("max_steps", -1), recipe.get("num_epochs")
    if isinstance(steps, int) and steps > 0:
        yield f"more steps (training.max_steps={4 * steps})"
    elif isinstance(epochs, int | float):
        yield f"more epochs (recipe.num_epochs={3 * epochs:g})"
    else:
        yield "more epochs"
    zeros = summary.get("sparsity", {}).get("overall", 0.0)
    if is_pruned(zeros):
        yield f"less sparsity{_lower_sparsity(config, zeros)}"
    streamed = (config.get("dataset") or {}).get("streaming")  # whose classes nobody counts
    if missed and not training.get("class_weights") and not streamed:
        # Where the teacher decides alone, class weights would be refused.
        taught = "teacher" in summary and recipe.get("distill_hardness") == 1
        mixed = " recipe.distill_hardness=0.5" if taught else ""
        yield f"class weights (training.class_weights=balanced{mixed})"


def _lower_sparsity(config: Mapping[str, Any], zeros: float) -> str:
    """The override of the key by which this run set its sparsity, where it has one."""
    lower = [value for value in _LOWER if value < zeros - FEW_ZEROS]
    keys = {"recipe": "final_sparsity", "student": "sparsity"}
    for group, key in keys.items():
        if isinstance((config.get(group) or {}).get(key), int | float) and lower:
            return f" ({group}.{key}={lower[-1]:g})"
    return ""
