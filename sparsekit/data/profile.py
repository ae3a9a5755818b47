"""Figures of a data set: rows, classes, repeated texts and scripts of each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from sparsekit.data.duplicates import Keys, repeated, text_keys
from sparsekit.data.near_duplicates import HashedTexts, Indices, near
from sparsekit.data.origin import where
from sparsekit.data.scripts import scripts
from sparsekit.data.splits import Codes, Mask


def profile(
    splits: Mapping[str, Dataset],
    texts: Sequence[str],
    classes: Mapping[str, Codes],
    names: Sequence[str],
) -> dict[str, Any]:
    """The figures as they stand in `data.json`.

    Args:
        splits: rows with their origin, `train` among them.
        texts: their columns of text.
        classes: for each split the class of each row as an index into `names`, [rows]; empty where
            rows have no classes.
        names: of the classes.
    """
    keys = {split: text_keys(rows, texts) for split, rows in splits.items()}
    figures: dict[str, Any] = {"splits": {}, "scripts": scripts(splits["train"], texts)}
    train = HashedTexts.of(splits["train"], texts)
    for split, rows in splits.items():
        figures["splits"][split] = _split(rows, keys[split], classes.get(split), names)
        if split != "train":
            leaked = np.isin(keys[split], keys["train"])
            figures["splits"][split]["in_train"] = _rows(rows, leaked)
            like = near(HashedTexts.of(rows, texts), train)
            figures["splits"][split]["near_train"] = _near(rows, splits["train"], like, leaked)
    if classes:
        figures["contradictions"] = _contradictions(splits, keys, classes)
    return figures


def _split(
    rows: Dataset, keys: Keys, classes: Codes | None, names: Sequence[str]
) -> dict[str, Any]:
    figures: dict[str, Any] = {"rows": len(rows), "repeated": _rows(rows, repeated(keys))}
    if classes is not None:
        counts = np.bincount(classes, minlength=len(names)).tolist()
        figures["classes"] = dict(zip(names, counts, strict=True))
    return figures


def _contradictions(
    splits: Mapping[str, Dataset], keys: Mapping[str, Keys], classes: Mapping[str, Codes]
) -> dict[str, dict[str, Any]]:
    """By split, the rows whose text has another class elsewhere in the data set."""
    pairs = [np.stack([keys[split], classes[split].astype(np.uint64)]) for split in classes]
    distinct = np.unique(np.concatenate(pairs, axis=1), axis=1)
    texts, counts = np.unique(distinct[0], return_counts=True)
    several = texts[counts > 1]
    return {split: _rows(splits[split], np.isin(keys[split], several)) for split in classes}


def _near(rows: Dataset, train: Dataset, like: Indices, leaked: Mask) -> dict[str, Any]:
    """The rows that are nearly the same as a row of `train`, and where that of the first is.

    like: for each row the index of such a row of `train`, or -1, [rows].
    leaked: whether its text is in `train` as it is; such rows are not counted, [rows].
    """
    only_near = (like >= 0) & ~leaked
    pair = like[only_near][:1].tolist()
    return {**_rows(rows, only_near), "like": where(train, pair) if pair else None}


def _rows(rows: Dataset, mask: np.ndarray) -> dict[str, Any]:
    """How many rows `mask` marks, and where the first of them are."""
    marked = np.flatnonzero(mask).tolist()
    return {"rows": len(marked), "where": where(rows, marked) if marked else None}
