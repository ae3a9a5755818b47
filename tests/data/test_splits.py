"""Rows split off by what they say, and texts that say the same."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from sparsekit.data.duplicates import normalized, repeated, text_keys
from sparsekit.data.splits import share

COUNT = 1000
KEYS = text_keys(Dataset.from_dict({"text": [f"ticket {i}" for i in range(COUNT)]}), ["text"])
CLASSES = np.arange(COUNT) % 10 // 9  # 900 of class 0, 100 of class 1


def test_each_class_gives_its_share() -> None:
    chosen = share("validation", 0.1, 0, KEYS, CLASSES)
    assert np.bincount(CLASSES[chosen]).tolist() == [90, 10]


def test_rows_that_move_stay_in_their_split() -> None:
    chosen = share("validation", 0.1, 0, KEYS, CLASSES)
    order = np.random.default_rng(0).permutation(COUNT)
    assert (share("validation", 0.1, 0, KEYS[order], CLASSES[order]) == chosen[order]).all()


@pytest.mark.parametrize("removed", range(5))
def test_a_row_that_is_removed_moves_at_most_one_other(removed: int) -> None:
    chosen = share("validation", 0.1, 0, KEYS, CLASSES)
    kept = np.arange(COUNT) != removed
    again = share("validation", 0.1, 0, KEYS[kept], CLASSES[kept])
    assert (again != chosen[kept]).sum() <= 1


def test_another_seed_or_name_makes_another_choice() -> None:
    first = share("validation", 0.1, 0, KEYS, CLASSES)
    for name, seed in (("validation", 1), ("test", 0)):
        both = first & share(name, 0.1, seed, KEYS, CLASSES)
        assert both.sum() < 30  # 10 by chance


def test_texts_that_say_the_same_stay_together() -> None:
    texts = [f"ticket {i // 3}{'!' * (i % 3)}" for i in range(300)]
    keys = text_keys(Dataset.from_dict({"text": texts}), ["text"])
    # Some texts have a label of their own in one of their three rows.
    classes = (np.arange(300) % 30 == 0).astype(np.int64)
    chosen = share("validation", 0.2, 0, keys, classes).reshape(100, 3)
    assert (chosen.all(axis=1) == chosen.any(axis=1)).all()
    assert chosen.sum() == 60


@pytest.mark.parametrize(
    ("texts", "split_off"),
    [(["a"], 0), (["a", "b"], 1), (["a", "A", "a."], 0), (["a", "a", "b"], 1)],
)
def test_small_classes(texts: list[str], split_off: int) -> None:
    keys = text_keys(Dataset.from_dict({"text": texts}), ["text"])
    chosen = share("validation", 0.1, 0, keys, np.zeros(len(texts), dtype=np.int64))
    assert chosen.sum() == split_off


def test_case_blanks_and_punctuation_say_nothing() -> None:
    assert normalized(" It's\tGOOD,   really!") == normalized("it s good really")
    assert normalized("...") != normalized("?")
    assert normalized("\u2116 5") == normalized("No 5")
    rows = Dataset.from_dict({"a": ["x", "X!", "x", ""], "b": ["y", "y", "z", None]})
    keys = text_keys(rows, ["a", "b"])
    assert repeated(keys).tolist() == [False, True, False, False]
    assert len(set(text_keys(rows, ["a"]).tolist())) == 2


def test_words_in_lists_are_text() -> None:
    rows = Dataset.from_dict({"tokens": [["a", "b"], ["A", "b", "."], ["c"]]})
    assert repeated(text_keys(rows, ["tokens"])).tolist() == [False, True, False]


def test_a_class_whose_texts_are_copies_gives_the_smallest_group() -> None:
    """Each of the rare class's texts occurs ten times, more than a tenth of its 50 rows."""
    texts = [f"ticket {i}" for i in range(950)] + [f"rare {i % 5}" for i in range(50)]
    keys = text_keys(Dataset.from_dict({"text": texts}), ["text"])
    classes = np.array([0] * 950 + [1] * 50)
    chosen = share("validation", 0.1, 0, keys, classes)
    assert np.bincount(classes[chosen]).tolist() == [95, 10]


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("\u0915\u093f", "\u0915\u0940"),  # Hindi: two vowels of one letter
        ("\u0e01\u0e34", "\u0e01\u0e35"),  # the same in Thai
        ("great \U0001f44d", "great \U0001f44e"),
        ("C++ is bad", "C# is bad"),
    ],
)
def test_marks_and_symbols_say_something(text: str, other: str) -> None:
    assert normalized(text) != normalized(other)
    assert normalized(f" {text}.") == normalized(text)
    assert len(normalized(text).split()) == len(text.split())


def test_invisible_signs_say_nothing() -> None:
    assert normalized("good\u200b film\ufeff") == normalized("good film")
