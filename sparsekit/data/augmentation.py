"""New texts from given ones, for a teacher to label: words left out, replaced, or recombined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

Words = list[str]
# None for a word that is masked.
MaskedText = list[str | None]
# Puts words in the place of the masked ones.
Fill = Callable[[Sequence[MaskedText], np.random.Generator], list[Words]]
Change = Callable[[Words, Words, np.random.Generator], Words]

# The share of words that is left out of a text.
DELETED = 0.1
# The most words of an n-gram.
LONGEST = 5
# The share of words that a masked-LM head replaces.
MASKED = 0.15
MASKED_WORDS = "masked_words"


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The config node `dataset.augment`.

    copies: the number of new texts for each text; 0: none;
    methods: some of `METHODS` and `masked_words`, of which each new text takes one at random;
    masked_lm: the checkpoint whose masked-LM head draws the words of `masked_words`;
    seed: another one makes other texts. The run's own seed changes nothing.
    """

    copies: int = 0
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    masked_lm: str | None = None
    seed: int = 0

    @property
    def masks(self) -> bool:
        """Whether texts are made by a masked-LM head."""
        return self.copies > 0 and MASKED_WORDS in self.methods

    def problems(self) -> list[str]:
        """What is wrong with the values, each with its fix."""
        found = []
        if self.copies < 0:
            found.append(f"dataset.augment.copies is {self.copies}; set 0 or more")
        known = [*METHODS, MASKED_WORDS]
        if not self.methods or not set(self.methods) <= set(known):
            found.append(
                f"dataset.augment.methods is {self.methods}; name some of {', '.join(known)}"
            )
        if (MASKED_WORDS in self.methods) != (self.masked_lm is not None):
            found.append(
                f"dataset.augment.methods is {self.methods} and masked_lm {self.masked_lm}: "
                f"{MASKED_WORDS} draws words from the checkpoint masked_lm, so set both or neither"
            )
        return found


def delete_words(words: Words, other: Words, generator: np.random.Generator) -> Words:
    """`words` without a tenth of them, drawn at random; at least one stays.

    J. Wei and K. Zou, "EDA: Easy Data Augmentation Techniques" (2019).
    """
    kept = generator.random(len(words)) >= DELETED
    if not kept.any():
        kept[generator.integers(len(words))] = True
    return [word for word, keep in zip(words, kept, strict=True) if keep]


def recombine_ngrams(words: Words, other: Words, generator: np.random.Generator) -> Words:
    """`words`, with one of its n-grams replaced by one of `other`; n is 1 to 5.

    After the n-gram sampling of R. Tang et al., "Distilling Task-Specific Knowledge from BERT into
    Simple Neural Networks" (2019).
    """
    start, end = _ngram(words, generator)
    first, last = _ngram(other, generator)
    return [*words[:start], *other[first:last], *words[end:]]


def _ngram(words: Words, generator: np.random.Generator) -> tuple[int, int]:
    """The first index of an n-gram and the one after its last."""
    length = int(generator.integers(1, min(LONGEST, len(words)) + 1))
    start = int(generator.integers(len(words) - length + 1))
    return start, start + length


METHODS: dict[str, Change] = {"ngrams": recombine_ngrams, "deletion": delete_words}


def mask_words(words: Words, generator: np.random.Generator) -> MaskedText:
    """`words` with None in the place of some, drawn at random; of at least one.

    After the contextual augmentation of X. Wu et al., "Conditional BERT Contextual Augmentation"
    (2018), without its labels: the teacher gives them.
    """
    masked = generator.random(len(words)) < MASKED
    masked[generator.integers(len(words))] = True
    return [None if hidden else word for word, hidden in zip(words, masked, strict=True)]


def augmented(
    columns: Sequence[Sequence[str]], config: Augmentation, fill: Fill | None = None
) -> list[list[str]]:
    """New rows: for each given row `config.copies`, in which one column is changed.

    Args:
        columns: one or two columns of texts, of equal length.
        config: how many, by which methods, from which seed.
        fill: fills the masked words, where `config.masks`.

    Returns:
        As many columns, with rows in the order of the given ones, copy after copy. A row with no
        words is left out.
    """
    made: list[list[str]] = [[] for _ in columns]
    masked: list[tuple[int, int, MaskedText]] = []
    words = [[text.split() for text in column] for column in columns]
    filled = [np.flatnonzero([bool(text) for text in column]) for column in words]
    generator = np.random.default_rng(config.seed)
    for _ in range(config.copies):
        for row in range(len(columns[0])):
            choices = [at for at, column in enumerate(words) if column[row]]
            if not choices:
                continue
            changed = choices[generator.integers(len(choices))]
            method = config.methods[generator.integers(len(config.methods))]
            for column, texts in zip(columns, made, strict=True):
                texts.append(column[row])
            text = words[changed][row]
            if method == MASKED_WORDS:
                masked.append((changed, len(made[changed]) - 1, mask_words(text, generator)))
                continue
            other = words[changed][filled[changed][generator.integers(len(filled[changed]))]]
            made[changed][-1] = " ".join(METHODS[method](text, other, generator))
    if masked:
        assert fill is not None
        answers = fill([text for *_, text in masked], generator)
        for (changed, at, _), answer in zip(masked, answers, strict=True):
            made[changed][at] = " ".join(answer)
    return made
