"""Fields of csv files that are longer than the csv module reads."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager

# The csv module's own limit, 131,072 characters, would refuse long documents.
LONGEST_FIELD = 2**31 - 1


@contextmanager
def long_fields() -> Iterator[None]:
    """The csv module's limit of a field, which is one for the whole process, out of the way."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
