"""The checks of answers in SQuAD's form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def mistakes(context: str, value: Any, unanswerable: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with the answers of a row: the kind of mistake, and its description."""
    texts = value.get("text") if isinstance(value, Mapping) else None
    starts = value.get("answer_start") if isinstance(value, Mapping) else None
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        yield (
            "form",
            f"the answers are {value!r:.80}, not an object with the lists text and answer_start of "
            'one length, as in {"text": ["two"], "answer_start": [17]}',
        )
        return
    if not texts and not unanswerable:
        yield (
            "none",
            "the question has no answer; remove the row, or set dataset.unanswerable=true where "
            "questions may have none",
        )
    for text, start in zip(texts, starts, strict=True):
        at = context[int(start) : int(start) + len(text)]
        if at != text or not text.strip():
            yield (
                "offset",
                f"the answer {text!r:.60} is not at character {start} of the context, where "
                f"{at!r:.60} is; correct answer_start, which counts characters from 0",
            )
