"""Labels: classes counted and named from the data, and matched with the names that a model has."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from datasets import ClassLabel, Dataset
from transformers import PreTrainedConfig

from sparsekit.data.advice import drop_labels
from sparsekit.data.class_labels import namer, names_of
from sparsekit.data.columns import values as column_values
from sparsekit.data.origin import where, with_origin
from sparsekit.errors import ConfigError, UserError

log = logging.getLogger(__name__)

UNLABELLED = "-1"
# Ends the error for a column of one class.
FEW_LABELS = "label in train; at least 2 are needed"
# More classes than this need two training rows each, or the column holds texts, not labels.
_FEW = 50
# Labels of one split that are named where they are unknown.
_SHOWN = 5
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# What becomes of labels that differ in case alone.
LabelCase = Literal["refuse", "ignore", "keep"]


def number_labels(
    raw: Mapping[str, Dataset],
    column: str,
    case: LabelCase = "refuse",
    *,
    strip: bool = True,
) -> tuple[list[str], dict[str, list[int]]]:
    """The class names in order, and each split's labels as indices into them.

    A ClassLabel column has names and an order of its own; that of train counts, and the others are
    read by their names. Other labels are compared as text and sorted, by value where all of them
    are numbers. The split `test` is left out where all its
    labels are -1, as in GLUE, and train has no such label.

    Args:
        raw: the splits, `train` among them.
        column: the column of labels.
        case: for labels that differ in upper and lower case alone: `ignore` makes them one class
            under its most frequent spelling, `keep` a class each.
        strip: whether blanks around a label are left out.

    Raises ConfigError for missing labels, labels that the training split lacks, fractions, and
    labels that `case` refuses.
    """
    problems: list[str] = []
    texts = {split: _texts(rows, split, column, strip) for split, rows in raw.items()}
    if set(texts.get("test", ())) == {UNLABELLED} and UNLABELLED not in texts["train"]:
        del texts["test"]
    names = names_of(raw["train"].features[column])
    if not names:
        spellings = [] if case == "keep" else _spellings(texts)
        if case == "refuse":
            problems += [_case_problem(raw, column, texts, group) for group in spellings[:_SHOWN]]
        texts = _one_spelling(texts, spellings)
        names = _sorted_classes(texts, column)
    index = {name: i for i, name in enumerate(names)}
    if len(names) < 2:
        problems.append(f"column {column!r} has {len(names)} {FEW_LABELS}")
    for split, labels in texts.items():
        problems += _unusable(with_origin(raw[split], split), column, labels, names)
    if problems:
        raise ConfigError(problems)
    return names, {split: [index[str(v)] for v in labels] for split, labels in texts.items()}


def is_number(text: str) -> bool:
    """Whether the text is a decimal number.

    >>> is_number("-1.5e3"), is_number("01"), is_number("nan"), is_number("1_0")
    (True, True, False, False)
    """
    return _NUMBER.fullmatch(text) is not None


def are_numbers(names: Sequence[str]) -> bool:
    """Whether classes have no names but the numbers from 0 on, in order.

    >>> are_numbers(["0", "1"]), are_numbers(["1", "2"]), are_numbers([])
    (True, False, False)
    """
    return bool(names) and list(names) == [str(index) for index in range(len(names))]


def _texts(rows: Dataset, split: str, column: str, strip: bool) -> list[str | None]:
    """Labels as text, without the blanks around them if `strip`; None is a missing label.

    The numbers of a ClassLabel are read by its names, which stay as they are.
    """
    names = names_of(rows.features[column])
    texts = list(map(namer(names), column_values(rows, column)))
    if names:
        return texts
    stripped = [text.strip() or None if text is not None else None for text in texts]
    changed = [
        i for i, (a, b) in enumerate(zip(texts, stripped, strict=True)) if a != b and b is not None
    ]
    if not strip:
        return [a if b is not None else None for a, b in zip(texts, stripped, strict=True)]
    if changed:
        log.warning(
            "%s: column %r: blanks around %d labels are ignored, such as in %r; "
            "dataset.strip_labels=false makes them classes of their own",
            where(with_origin(rows, split), changed),
            column,
            len(changed),
            texts[changed[0]],
        )
    return stripped


def _spellings(labels: Mapping[str, Sequence[str | None]]) -> list[list[str]]:
    """Labels that differ in case alone, in groups, the most frequent first."""
    counts = Counter(label for split in labels.values() for label in split if label is not None)
    groups: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        groups[label.casefold()].append(label)
    return [group for group in groups.values() if len(group) > 1]


def _one_spelling(
    labels: Mapping[str, list[str | None]], groups: Sequence[Sequence[str]]
) -> dict[str, list[str | None]]:
    """The labels, each group under its first spelling."""
    chosen = {label: group[0] for group in groups for label in group}
    return {
        split: [None if v is None else chosen.get(v, v) for v in values]
        for split, values in labels.items()
    }


def _case_problem(
    raw: Mapping[str, Dataset],
    column: str,
    labels: Mapping[str, Sequence[str | None]],
    group: Sequence[str],
) -> str:
    counts = Counter(v for split in labels.values() for v in split if v in group)
    listed = ", ".join(f"{_cut(label)!r} ({counts[label]} rows)" for label in group)
    rare = {
        split: [row for row, value in enumerate(values) if value in group[1:]]
        for split, values in labels.items()
    }
    places = [
        where(with_origin(raw[split], split), found) for split, found in rare.items() if found
    ]
    return (
        f"column {column!r} has labels that differ in case alone: {listed}; make them equal in the "
        f"file ({'; '.join(places)}), or set dataset.label_case=ignore (one class, named "
        f"{_cut(group[0])!r}) or dataset.label_case=keep (a class for each)"
    )


def _sorted_classes(labels: Mapping[str, Sequence[str | None]], column: str) -> list[str]:
    """The distinct labels of train, sorted by value where all labels of all splits are numbers."""
    names = sorted({label for label in labels["train"] if label is not None})
    numbers = all(map(is_number, names))
    if numbers and (fraction := next((x for x in names if not float(x).is_integer()), None)):
        raise ConfigError(
            [
                f"column {column!r} in train holds {fraction}, which is a score, not a class; "
                "sparsekit learns classes: give each a whole number or a name"
            ]
        )
    everywhere = {label for split in labels.values() for label in split if label is not None}
    if numbers and all(map(is_number, everywhere)):
        names.sort(key=lambda name: (float(name), name))
    _refuse_texts(names, len(labels["train"]), column)
    return names


def _refuse_texts(names: Sequence[str], rows: int, column: str) -> None:
    if len(names) > max(_FEW, rows // 2):
        raise ConfigError(
            [
                f"column {column!r} holds {len(names)} different labels in the {rows} rows of "
                f"train, such as {_cut(names[0])!r}; name the column of classes with "
                "dataset.label_column"
            ]
        )


def id2label(config: PreTrainedConfig) -> dict[int, str]:
    """The model's names of its labels, by index."""
    return {int(index): str(name) for index, name in (config.id2label or {}).items()}


def label_names(config: PreTrainedConfig) -> list[str]:
    """The model's names of its labels, in the order of its outputs."""
    return [name for _, name in sorted(id2label(config).items())]


def matching_order(names: Sequence[str], id2label: Mapping[int, str]) -> list[int] | None:
    """For each of `names`, which are distinct, its index in the model; None for other names.

    Names that are equal are matched; where they are not, upper and lower case and blanks around
    them are ignored. Names such as LABEL_0 are other names: the caller keeps the order of the data.
    Raises UserError where names of the model that differ in case alone could match either way.
    """
    theirs = [id2label[i] for i in sorted(id2label)]
    if sorted(names) == sorted(theirs):
        return [theirs.index(name) for name in names]
    folded = [name.strip().casefold() for name in theirs]
    ours = [name.strip().casefold() for name in names]
    if sorted(ours) != sorted(folded):
        return None
    if len(set(folded)) < len(folded):
        raise UserError(
            f"the model's labels {', '.join(theirs)} and the data's {', '.join(names)} differ in "
            "case alone, and so do some of them from each other, so that they cannot be matched; "
            "give id2label in the model's config.json the names of the data"
        )
    return [folded.index(name) for name in ours]


def is_generic(id2label: Mapping[int, str]) -> bool:
    """Whether the names are transformers' own placeholders, LABEL_0 and so on."""
    return all(name == f"LABEL_{i}" for i, name in id2label.items())


def _unusable(
    rows: Dataset, column: str, labels: Sequence[str | None], names: Sequence[str]
) -> Iterator[str]:
    """A problem for missing labels, and one for each label that the training split lacks."""
    known = set(names)
    places: dict[str | None, list[int]] = defaultdict(list)
    for row, value in enumerate(labels):
        if value not in known:
            places[value].append(row)
    if missing := places.pop(None, None):
        yield (
            f"{where(rows, missing)}: column {column!r}: the label is missing in {len(missing)} of "
            f"{len(rows)} rows; fill it, or leave the rows out: dataset.drop_empty=true"
        )
    shown = ", ".join(_cut(name) for name in names[:10]) + (
        f" and {len(names) - 10} more" if len(names) > 10 else ""
    )
    # A number without a name could be any of train's classes.
    bare = not isinstance(rows.features[column], ClassLabel) and not are_numbers(names)
    for value, found in list(places.items())[:_SHOWN]:
        text = str(value)
        correct = (
            f"write the name of the class, or cast the column to ClassLabel(names={list(names)})"
            if bare and is_number(text) and len(names) <= _SHOWN
            else "correct it"
        )
        fix = f", or leave the rows out: {drop_labels([text])}" if _cut(text) == text else ""
        yield (
            f"{where(rows, found)}: column {column!r}: label {_cut(value)!r} is never seen in "
            f"train, which has {shown}; {correct}{fix}"
        )
    if len(places) > _SHOWN:
        yield f"column {column!r} has {len(places) - _SHOWN} more labels that are not in train"


def _cut(value: Any) -> Any:
    return f"{value[:40]}..." if isinstance(value, str) and len(value) > 43 else value
