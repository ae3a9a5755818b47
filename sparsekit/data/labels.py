"""Labels: counted and named from the data, and compared with what a model calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset

from sparsekit.errors import ConfigError

UNLABELLED = -1
# So many classes are believed of the smallest data set.
_FEW = 50


def number_labels(
    raw: Mapping[str, Dataset], column: str
) -> tuple[list[str], dict[str, list[int]]]:
    """The label names in order, and each split's labels as indices into them.

    A ClassLabel column brings its names and order; other labels are sorted. A test split whose
    labels are all -1, as in GLUE, is left out. Raises ConfigError for missing labels and for
    labels that the training split never shows, and for fractions.
    """
    feature = raw["train"].features[column]
    values = {split: list(rows[column]) for split, rows in raw.items()}
    if isinstance(feature, ClassLabel):
        values = {s: v for s, v in values.items() if set(v) != {UNLABELLED}}
        classes: list[Any] = list(range(feature.num_classes))
        names = list(feature.names)
    else:
        _refuse_scores(values["train"], column)
        classes = sorted({v for v in values["train"] if v is not None}, key=_sort_key)
        names = [_name(value) for value in classes]
        _refuse_texts(names, len(values["train"]), column)
    index = {value: i for i, value in enumerate(classes)}
    problems = []
    if len(names) < 2:
        problems.append(f"column {column!r} has {len(names)} label in train; at least 2 are needed")
    problems += [
        _problem(split, column, row, value, names)
        for split, labels in values.items()
        for row, value in enumerate(labels)
        if value not in index
    ]
    if problems:
        more = [f"... and {len(problems) - 5} more rows"] if len(problems) > 5 else []
        raise ConfigError(problems[:5] + more)
    return names, {split: [index[v] for v in labels] for split, labels in values.items()}


def _refuse_scores(labels: Sequence[Any], column: str) -> None:
    fractions = (v for v in labels if isinstance(v, float) and not v.is_integer())
    if (first := next(fractions, None)) is not None:
        raise ConfigError(
            [
                f"column {column!r} in train holds {first!r}, which is a score, not a class; "
                "sparsekit learns classes: give each a whole number or a name"
            ]
        )


def _refuse_texts(names: Sequence[str], rows: int, column: str) -> None:
    if len(names) > max(_FEW, rows // 2):
        raise ConfigError(
            [
                f"column {column!r} holds {len(names)} different labels in the {rows} rows of "
                f"train, such as {_cut(names[0])!r}; name the column of classes with "
                "dataset.label_column"
            ]
        )


def matching_order(names: Sequence[str], id2label: Mapping[int, str]) -> list[int] | None:
    """For each of `names` its index in the model, or None where the model's names differ.

    Upper and lower case count as equal. Names such as LABEL_0 say nothing, so they keep the
    data's order; so do names that do not match, which the caller should mention.
    """
    theirs = [id2label[i].casefold() for i in sorted(id2label)]
    ours = [name.casefold() for name in names]
    if sorted(ours) != sorted(theirs):
        return None
    return [theirs.index(name) for name in ours]


def is_generic(id2label: Mapping[int, str]) -> bool:
    """Whether the names are transformers' own placeholders, LABEL_0 and so on."""
    return all(name == f"LABEL_{i}" for i, name in id2label.items())


def _problem(split: str, column: str, row: int, value: Any, names: list[str]) -> str:
    where = f"split {split!r}, column {column!r}, row {row} (from 0)"
    if value is None:
        return f"{where}: the label is missing; remove the row or fill it"
    known = ", ".join(_cut(name) for name in names[:10]) + (
        f" and {len(names) - 10} more" if len(names) > 10 else ""
    )
    return f"{where}: label {_cut(value)!r} is never seen in train, which has {known}"


def _cut(value: Any) -> Any:
    return f"{value[:40]}..." if isinstance(value, str) and len(value) > 43 else value


def _sort_key(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
