"""Duplicate texts: equal except for case, blanks and punctuation."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from sparsekit.data.columns import values


class _Plain(dict[int, str]):
    """What each character becomes, by its code; filled as characters occur.

    Blanks for punctuation, separators and controls; nothing for invisible signs. Marks are parts of
    letters, as the vowels of Hindi and Thai, and symbols have a meaning: emoji, C++.
    """

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        blank = category[0] in "PZ" or category == "Cc"
        self[code] = " " if blank else "" if category == "Cf" else chr(code)
        return self[code]


_PLAIN = _Plain()

Keys = npt.NDArray[np.uint64]


def normalized(text: str) -> str:
    """The words of a text in lower case, one blank apart; a text without words as it is.

    >>> normalized("It is  GOOD!"), normalized(":-)")
    ('it is good', ':-)')
    """
    plain = unicodedata.normalize("NFKC", text)
    return " ".join(plain.casefold().translate(_PLAIN).split()) or plain.strip()


def row_texts(rows: Dataset, columns: Sequence[str]) -> Iterator[str]:
    """The normalized texts of each row, one null character apart."""
    texts = zip(*(column_texts(rows, name) for name in columns), strict=True)
    return ("\0".join(map(normalized, row)) for row in texts)


def text_keys(rows: Dataset, columns: Sequence[str]) -> Keys:
    """A key for each row, equal for rows with duplicate texts in `columns`, [rows]."""
    return np.fromiter(map(_key, row_texts(rows, columns)), np.uint64)


def repeated(keys: Keys) -> npt.NDArray[np.bool_]:
    """Whether an earlier row has the same key, [rows]."""
    first = np.zeros(len(keys), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return ~first


def column_texts(rows: Dataset, name: str) -> Iterator[str]:
    """The column as text; the words of a list are joined by blanks."""
    for value in values(rows, name):
        if value is None:
            yield ""
        else:
            yield " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _key(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
