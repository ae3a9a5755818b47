"""The checks of answers in SQuAD's form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def mistakes(context: str, value: Any, unanswerable: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with the answers of a row: the kind of mistake, and its description.

    value: an object, or the text that is not the JSON of one.
    """
    texts = value.get("text") if isinstance(value, Mapping) else None
    starts = value.get("answer_start") if isinstance(value, Mapping) else None
    if (
        not isinstance(texts, list)
        or not isinstance(starts, list)
        or len(texts) != len(starts)
        or not all(isinstance(text, str) for text in texts)
        or not all(map(_is_position, starts))
    ):
        yield (
            "form",
            f"the answers are {value!r:.80}, not an object with the lists text and answer_start of "
            "one length, of texts and of whole numbers from 0; write it as "
            '{"text": ["two"], "answer_start": [17]}',
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


def _is_position(value: Any) -> bool:
    """Whether a value is a whole number from 0, which tables with empty cells hold as 17.0.

    >>> _is_position(0), _is_position(17.0), _is_position(-4), _is_position(True)
    (True, True, False, False)
    """
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and value >= 0
