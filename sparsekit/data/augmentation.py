"""New texts from given ones, for a teacher to label: words left out, and n-grams recombined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

Words = list[str]
Change = Callable[[Words, Words, np.random.Generator], Words]

# The share of words that is left out of a text.
DELETED = 0.1
# The most words of an n-gram.
LONGEST = 5


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The config node `dataset.augment`.

    copies: the number of new texts for each text; 0: none;
    methods: some of `METHODS`, of which each new text takes one at random;
    seed: another one makes other texts. The run's own seed changes nothing.
    """

    copies: int = 0
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    seed: int = 0

    def problems(self) -> list[str]:
        """What is wrong with the values, each with its fix."""
        found = []
        if self.copies < 0:
            found.append(f"dataset.augment.copies is {self.copies}; set 0 or more")
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            found.append(
                f"dataset.augment.methods is {self.methods}; name some of {', '.join(METHODS)}"
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


def augmented(columns: Sequence[Sequence[str]], config: Augmentation) -> list[list[str]]:
    """New rows: for each given row `config.copies`, in which one column is changed.

    Args:
        columns: one or two columns of texts, of equal length.
        config: how many, by which methods, from which seed.

    Returns:
        As many columns, with rows in the order of the given ones, copy after copy. A row with no
        words is left out.
    """
    made: list[list[str]] = [[] for _ in columns]
    words = [[text.split() for text in column] for column in columns]
    filled = [np.flatnonzero([bool(text) for text in column]) for column in words]
    generator = np.random.default_rng(config.seed)
    for _ in range(config.copies):
        for row in range(len(columns[0])):
            choices = [at for at, column in enumerate(words) if column[row]]
            if not choices:
                continue
            changed = choices[generator.integers(len(choices))]
            change = METHODS[config.methods[generator.integers(len(config.methods))]]
            other = words[changed][filled[changed][generator.integers(len(filled[changed]))]]
            text = " ".join(change(words[changed][row], other, generator))
            for at, column in enumerate(columns):
                made[at].append(text if at == changed else column[row])
    return made
