"""Which layer of the teacher each layer of a student learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def same_depth(own: Sequence[T], theirs: Sequence[T]) -> list[tuple[T, T]]:
    """Each layer of the student with the one at the same depth of the teacher.

    The last of the student's is paired with the last of the teacher's.
    """
    ends = [(index + 1) * len(theirs) // len(own) for index in range(len(own))]
    return [(layer, theirs[max(end, 1) - 1]) for layer, end in zip(own, ends, strict=True)]
