"""Near-duplicates: texts of different splits that are nearly the same.

A text stands for the set of its sequences of three words, whatever their case, blanks and
punctuation. Two texts of at least eight words are near-duplicates where the intersection of their
sets is at least 0.7 of the union (the Jaccard index): one word in twenty may differ. Pairs are
found by MinHash signatures (Broder 1997, "On the resemblance and containment of documents") in
bands, and then compared exactly: a pair that is found is one, but not every pair is found. The
hash functions are constants, so that the same data give the same pairs.
"""

from __future__ import annotations

import random
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from sparsekit.data.duplicates import row_texts

SIMILAR = 0.7
LEAST_WORDS = 8
_SEQUENCE = 3
_HASHES, _BANDS = 64, 16
# Rows of one band that a row is compared with, and the agreement of signatures below which it is
# not compared exactly: the agreement estimates the Jaccard index with a deviation of about 0.06.
_CANDIDATES, _LEAST_AGREEMENT = 4, 0.55
# Words that are hashed at a time, so that the arrays stay in the processor's cache.
_WORDS_AT_A_TIME = 2**16
_PAIRS_AT_A_TIME = 2**16
# Letters of scripts that put no blanks between words: each counts as a word, with its marks.
_MARKS = "".join(c for c in map(chr, range(0xE00, 0x1800)) if unicodedata.category(c)[0] == "M")
_UNSPACED = re.compile(
    f"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff][{_MARKS}]*)"
)
_RANDOM = random.Random(0)
_MULTIPLIERS, _SUMMANDS, _POSITIONS = (
    np.array([_RANDOM.getrandbits(64) | 1 for _ in range(count)], dtype=np.uint64)
    for count in (_HASHES, _HASHES, _SEQUENCE)
)

Minima = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HashedTexts:
    """The texts of a split that are long enough to be compared.

    rows, columns: the split and its columns of text.
    indices: of the rows that are long enough, [texts].
    minima: their signatures, [texts, 64].
    """

    rows: Dataset
    columns: Sequence[str]
    indices: Indices
    minima: Minima

    @classmethod
    def of(cls, rows: Dataset, columns: Sequence[str]) -> HashedTexts:
        """The texts of `rows`; takes 256 bytes for each."""
        indices: list[int] = []
        minima: list[Minima] = []
        batch: list[list[int]] = []
        waiting = 0
        for index, text in enumerate(row_texts(rows, columns)):
            words = [zlib.crc32(word) for word in _words(text)]
            if len(words) < LEAST_WORDS:
                continue
            indices.append(index)
            batch.append(words)
            waiting += len(words)
            if waiting >= _WORDS_AT_A_TIME:
                minima.append(_minima(batch))
                batch, waiting = [], 0
        if batch:
            minima.append(_minima(batch))
        found = np.concatenate(minima) if minima else np.zeros((0, _HASHES), dtype=np.uint32)
        return cls(rows, columns, np.array(indices, dtype=np.int64), found)

    def sequences(self, texts: Indices) -> Iterator[set[tuple[bytes, ...]]]:
        """The set of word sequences of each of `texts`, which index `indices`."""
        chosen = self.rows.select_columns(list(self.columns)).select(self.indices[texts])
        for text in row_texts(chosen, self.columns):
            words = _words(text)
            yield set(zip(*(words[start:] for start in range(_SEQUENCE)), strict=False))


def near(texts: HashedTexts, others: HashedTexts) -> Indices:
    """For each row of `texts` the index of a row of `others` that is nearly the same, or -1."""
    best, agreement = _candidates(texts.minima, others.minima)
    compared = np.flatnonzero(agreement >= _LEAST_AGREEMENT)
    found = np.full(len(texts.rows), -1, dtype=np.int64)
    pairs = zip(texts.sequences(compared), others.sequences(best[compared]), strict=True)
    for text, (first, second) in zip(compared, pairs, strict=True):
        if len(first & second) >= SIMILAR * len(first | second):
            found[texts.indices[text]] = others.indices[best[text]]
    return found


def _words(text: str) -> list[bytes]:
    """The words of normalized texts; letters of scripts without blanks one by one.

    >>> len(_words("\u0e17\u0e35\u0e48 good"))  # a letter with two marks, and a word
    2
    """
    together = text.replace("\0", " ")
    spaced = together if text.isascii() else _UNSPACED.sub(r" \1 ", together)
    return spaced.encode("utf-8", "surrogatepass").split()


def _minima(batch: Sequence[Sequence[int]]) -> Minima:
    """The signatures of texts of three words or more, given the hashes of their words."""
    lengths = np.array([len(words) for words in batch])
    words = np.fromiter(chain.from_iterable(batch), np.uint64, int(lengths.sum()))
    ends = np.cumsum(lengths)
    # The last words of a text begin no sequence.
    begins = np.ones(len(words), dtype=bool)
    for back in range(1, _SEQUENCE):
        begins[ends - back] = False
    count = len(words) - _SEQUENCE + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for position, multiplier in enumerate(_POSITIONS):
        hashes = (hashes ^ words[position : position + count]) * multiplier
        hashes ^= hashes >> np.uint64(29)
    hashes = hashes[begins[:count]]
    starts = np.cumsum(lengths - _SEQUENCE + 1) - (lengths - _SEQUENCE + 1)
    found = np.empty((len(batch), _HASHES), dtype=np.uint32)
    for column, (multiplier, summand) in enumerate(zip(_MULTIPLIERS, _SUMMANDS, strict=True)):
        values = (hashes * multiplier + summand) >> np.uint64(32)
        found[:, column] = np.minimum.reduceat(values, starts)
    return found


def _candidates(minima: Minima, others: Minima) -> tuple[Indices, npt.NDArray[np.float64]]:
    """For each text the index of the other one whose signature agrees best, and the agreement."""
    best = np.zeros(len(minima), dtype=np.int64)
    agreement = np.zeros(len(minima))
    width = _HASHES // _BANDS
    for start in range(0, _HASHES, width):
        keys, other_keys = (_band_keys(each[:, start : start + width]) for each in (minima, others))
        order = np.argsort(other_keys, kind="stable")
        sorted_keys = other_keys[order]
        first = np.searchsorted(sorted_keys, keys, side="left")
        last = np.searchsorted(sorted_keys, keys, side="right")
        for step in range(_CANDIDATES):
            texts = np.flatnonzero(first + step < last)
            candidates = order[first[texts] + step]
            now = _agreement(minima, texts, others, candidates)
            better = now > agreement[texts]
            best[texts[better]] = candidates[better]
            agreement[texts[better]] = now[better]
    return best, agreement


def _band_keys(band: Minima) -> npt.NDArray[np.uint64]:
    """A key for each row of `band` [texts, width], equal where the rows are equal."""
    keys = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        keys = (keys ^ column) * _MULTIPLIERS[0]
        keys ^= keys >> np.uint64(29)
    return keys


def _agreement(
    minima: Minima, texts: Indices, others: Minima, candidates: Indices
) -> npt.NDArray[np.float64]:
    """The share of equal minima of each pair, [pairs]."""
    found = np.empty(len(texts))
    for start in range(0, len(texts), _PAIRS_AT_A_TIME):
        part = slice(start, start + _PAIRS_AT_A_TIME)
        found[part] = (minima[texts[part]] == others[candidates[part]]).mean(axis=1)
    return found
