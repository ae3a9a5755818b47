"""Tagged sentences of the seed's reviews: what they are about, and what they think of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hub_seed

ASPECTS = {word for subject in hub_seed.SUBJECTS for word in subject.split()}
OPINIONS = {word for words in hub_seed.WORDS.values() for word in words}
NAMES = ["O", "B-aspect", "I-aspect", "B-opinion"]


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Sentences as lists of words, with a tag for each."""
    made = []
    for review in hub_seed.reviews(count, seed):
        words = str(review["text"]).split()
        tags, last = [], "O"
        for word in words:
            if word in ASPECTS:
                last = "B-aspect" if last == "O" else "I-aspect"
            else:
                last = "B-opinion" if word in OPINIONS else "O"
            tags.append(last)
        made.append({"tokens": words, "tags": tags})
    return made


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write the rows as json, one a line; returns the path."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)
