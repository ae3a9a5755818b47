"""Entities in sequences of tags: found as the CoNLL evaluation finds them, and scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

OUTSIDE = "O"
# Schemes IOB1, IOB2, IOE, IOBES and BILOU.
PREFIXES = ("B", "I", "E", "S", "L", "U")
_SINGLE = ("S", "U")
_LAST = ("E", "L", *_SINGLE)
METRICS = ("precision", "recall", "f1", "accuracy")


@dataclass(frozen=True, order=True)
class Span:
    """An entity: its words `start` to `end` (excluded)."""

    start: int
    end: int
    kind: str


def split_tag(tag: str) -> tuple[str, str]:
    """The prefix of a tag and its type; a tag without prefix continues an entity.

    >>> split_tag("B-creative-work"), split_tag("O"), split_tag("NOUN")
    (('B', 'creative-work'), ('O', ''), ('I', 'NOUN'))
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, kind = tag.partition("-")
    return (prefix, kind) if dash and prefix in PREFIXES else ("I", tag)


def has_scheme(tags: Iterable[str]) -> bool:
    """Whether the tags mark entities: all are O or have a prefix, and one at least has one.

    >>> has_scheme(["O", "B-PER"]), has_scheme(["NOUN", "VERB"]), has_scheme(["O"])
    (True, False, False)
    """
    inside = [tag for tag in tags if tag != OUTSIDE]
    return bool(inside) and all(split_tag(tag)[1] != tag for tag in inside)


def spans(tags: Sequence[str]) -> list[Span]:
    """The entities of a sequence, as conlleval finds them.

    An entity begins with B, S or U, and also with I, E or L after O, after the end of an entity or
    after another type (Tjong Kim Sang and De Meulder, 2003).

    >>> spans(["B-a", "I-a", "I-b", "O", "I-b"])
    [Span(start=0, end=2, kind='a'), Span(start=2, end=3, kind='b'), Span(start=4, end=5, kind='b')]
    """
    found: list[Span] = []
    start, kind, before = 0, "", OUTSIDE
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, of = split_tag(tag)
        begins = prefix in ("B", *_SINGLE) or before in (OUTSIDE, *_LAST) or of != kind
        if before != OUTSIDE and (prefix == OUTSIDE or begins):
            found.append(Span(start, index, kind))
        if prefix != OUTSIDE and begins:
            start, kind = index, of
        before = prefix
    return found


class Counts(NamedTuple):
    """The correct, the predicted and the true entities, and the correct and all tags."""

    correct: int
    found: int
    known: int
    equal_tags: int
    tags: int


def counts(true: Sequence[str], predicted: Sequence[str]) -> Counts:
    """The counts of a sequence. An entity is correct where its boundaries and its type are."""
    ours, theirs = set(spans(true)), set(spans(predicted))
    equal = sum(a == b for a, b in zip(true, predicted, strict=True))
    return Counts(len(ours & theirs), len(theirs), len(ours), equal, len(true))


def scores(counts: Counts) -> dict[str, float]:
    """Precision, recall and F1 over all entities, and the accuracy of single tags.

    What is undefined, such as the precision without predicted entities, counts as 0.
    """
    accuracy = counts.equal_tags / max(counts.tags, 1)
    return {**_scores(counts.correct, counts.found, counts.known), "accuracy": accuracy}


def report(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Precision, recall, F1 and support (entities in the data) of each type, sorted by name."""
    correct, found, known = Counter[str](), Counter[str](), Counter[str]()
    for row, other in zip(true, predicted, strict=True):
        ours, theirs = set(spans(row)), set(spans(other))
        correct.update(span.kind for span in ours & theirs)
        found.update(span.kind for span in theirs)
        known.update(span.kind for span in ours)
    return {
        kind: {**_scores(correct[kind], found[kind], known[kind]), "support": known[kind]}
        for kind in sorted(found.keys() | known.keys())
    }


def _scores(correct: int, found: int, known: int) -> dict[str, float]:
    precision, recall = correct / max(found, 1), correct / max(known, 1)
    f1 = 2 * correct / max(found + known, 1)
    return {"precision": precision, "recall": recall, "f1": f1}
