"""Scripts that texts are written in, such as Latin and Cyrillic."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

# Rows that are looked at, spread evenly over the split.
SAMPLE = 5000
# First words of Unicode's names of letters, where they are not the script's name.
_NAMES = {"CJK": "Han", "IDEOGRAPHIC": "Han", "HALFWIDTH": "Katakana"}


def scripts(rows: Dataset, columns: Sequence[str]) -> dict[str, float]:
    """The share of letters in each script, the most frequent first."""
    indices = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int))
    letters: Counter[str] = Counter()
    sample = rows.select_columns(list(columns)).select(indices.tolist())
    for row in sample:
        for value in row.values():
            text = " ".join(map(str, value)) if isinstance(value, list) else str(value or "")
            letters.update(unicodedata.normalize("NFKC", text))
    found: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            word = unicodedata.name(letter, "OTHER").partition(" ")[0]
            found[_NAMES.get(word, word.capitalize())] += count
    total = found.total()
    return {name: count / total for name, count in found.most_common()}
