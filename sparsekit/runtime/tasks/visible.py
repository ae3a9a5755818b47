"""Which characters of a text an answer names."""

from __future__ import annotations


def visible(text: str, start: int, end: int) -> tuple[int, int]:
    """The characters from `start` to `end` (excluded) without the blanks around them.

    Some tokenizers count the blank before a word, or the one after it, to the word: byte-level
    ones whose offsets are not trimmed, and those that write a blank as U+2581.

    >>> visible("in Paris", 2, 8), visible("in  Paris", 2, 3)
    ((3, 8), (3, 3))
    """
    span = text[start:end]
    begin = end - len(span.lstrip())
    return begin, max(begin, start + len(span.rstrip()))
