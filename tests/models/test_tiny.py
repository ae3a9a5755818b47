"""The quickstart's pretrained model."""

from __future__ import annotations

from pathlib import Path

from sparsekit.models.tiny import vocabulary, write_tokenizer

TEXTS = ["The plot is dull .", "a plot, a cast ."]


def test_texts_alone_decide_the_vocabulary() -> None:
    """A set of words has another order in each process; the vocabulary has not."""
    letters = [",", ".", "a", "c", "d", "e", "h", "i", "l", "o", "p", "s", "t", "u"]
    assert vocabulary(TEXTS) == [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *letters,
        *(f"##{letter}" for letter in letters),
        *("cast", "dull", "is", "plot", "the"),
    ]


def test_words_are_tokens_and_others_are_spelled(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(TEXTS, tmp_path)
    assert tokenizer.tokenize("A DULL plot, lads?") == [
        *("a", "dull", "plot", ","),
        *("l", "##a", "##d", "##s", "[UNK]"),
    ]
