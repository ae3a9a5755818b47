"""Exact match and F1 of answers, as SQuAD's official scripts define them.

Source: the evaluation script of SQuAD 2.0, https://rajpurkar.github.io/SQuAD-explorer/, which gives
the values of 1.1 where every question has an answer. A data set's score is the mean over its
questions. Values are shares, not percentages.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

METRICS = ("exact_match", "f1")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """In lower case, without punctuation and articles, words one blank apart.

    >>> normalized("The  U.S. Army, an army")
    'us army army'
    """
    plain = answer.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(predicted: str, true: str) -> float:
    """1 for answers that are equal when normalized, else 0."""
    return float(normalized(predicted) == normalized(true))


def f1(predicted: str, true: str) -> float:
    """The harmonic mean of the precision and recall of words; 1 where both answers are empty.

    >>> f1("the big dog", "a dog"), f1("", ""), f1("dog", "")
    (0.6666666666666666, 1.0, 0.0)
    """
    ours, theirs = normalized(predicted).split(), normalized(true).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def values(predicted: str, true: Sequence[str]) -> dict[str, float]:
    """Each metric of the answer to a question, against the best of its true answers.

    predicted: "" for no answer. true: all right answers; none for a question without an answer.
    """
    references = [text for text in true if normalized(text)] or [""]
    return {
        "exact_match": max(exact_match(predicted, text) for text in references),
        "f1": max(f1(predicted, text) for text in references),
    }
