"""The words of a text as a token classifier labels them, and the token that decides about each.

Lists of words are read as the text that they make when blanks join them, so that a model reads the
same tokens in training and in prediction: byte-level tokenizers give a word another token where
no blank precedes it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from unicodedata import category

from tokenizers import Encoding

from sparsekit.runtime.tasks.visible import visible

BLANK = " "


@dataclass(frozen=True)
class Word:
    """A word: its characters `start` to `end` (excluded), and the first of its tokens."""

    start: int
    end: int
    token: int


def words_of(text: str, encoding: Encoding) -> list[Word]:
    """The words of a text that have tokens, without those of blanks alone.

    They end where the tokenizer says so, and at blanks: to some tokenizers, as Llama's, a whole
    text is one word.
    """
    numbers, offsets = encoding.word_ids, encoding.offsets
    between = _blanks_before(text)
    shown = [visible(text, *offset) for offset in offsets]
    tokens = (token for token, number in enumerate(numbers) if number is not None)
    found = []
    for _, group in groupby(tokens, key=lambda token: (numbers[token], between[shown[token][0]])):
        own = list(group)
        start, end = visible(text, offsets[own[0]][0], offsets[own[-1]][1])
        if start < end:
            found.append(Word(start, end, own[0]))
    return found


def deciding_tokens(words: Sequence[str], encoding: Encoding) -> list[int | None]:
    """For each of `words` the token whose label it has, in the encoding of the joined words.

    None for a word that is cut off, and for one that some tokenizers drop: then it counts with
    none, so that models with different tokenizers label the same words.
    """
    starts = list(accumulate((len(word) + len(BLANK) for word in words[:-1]), initial=0))
    found: list[int | None] = [None] * len(words)
    for part in words_of(BLANK.join(words), encoding):
        number = bisect_right(starts, part.start) - 1
        if found[number] is None and not _dropped(words[number]):
            found[number] = part.token
    return found


def _blanks_before(text: str) -> list[int]:
    """For each position of a text, its end too, how many words between blanks end before it.

    >>> _blanks_before("in  Paris ")
    [0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2]
    """
    ends = (not before.isspace() and after.isspace() for before, after in pairwise(text))
    counts = list(accumulate(map(int, ends), initial=0))
    return [*counts, counts[-1]]


def _dropped(word: str) -> bool:
    r"""Whether some tokenizers give no token to the word: it has no letter, sign or symbol.

    >>> _dropped("\u200b"), _dropped(""), _dropped("."), _dropped("e\u0301")
    (True, True, False, False)
    """
    return all(c == "\ufffd" or category(c) == "Mn" or category(c)[0] in "CZ" for c in word)
