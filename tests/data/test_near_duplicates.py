"""Near-duplicates: those that are found are, and nearly all are found."""

from __future__ import annotations

import random

from datasets import Dataset

from sparsekit.data.near_duplicates import LEAST_WORDS, SIMILAR, HashedTexts, near

TICKET = "the parcel was sent on monday and it did not arrive by friday"


def hashed(*texts: str) -> HashedTexts:
    return HashedTexts.of(Dataset.from_dict({"text": list(texts)}), ["text"])


def found(first: str, second: str) -> bool:
    """Whether two texts are near-duplicates, in both directions."""
    there = near(hashed(first), hashed(second)).tolist()
    assert near(hashed(second), hashed(first)).tolist() == there
    return there == [0]


def sequences(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(zip(words, words[1:], words[2:], strict=False))


def edited(text: str, chance: random.Random) -> str:
    """The text with up to four words replaced."""
    words = text.split()
    for _ in range(chance.randint(0, 4)):
        words[chance.randrange(len(words))] = f"new{chance.randrange(1000)}"
    return " ".join(words)


def test_pairs_are_those_that_share_their_sequences_of_words() -> None:
    chance = random.Random(0)
    words = [f"word{i}" for i in range(300)]
    train = [" ".join(chance.choices(words, k=chance.randint(8, 60))) for _ in range(300)]
    texts = [edited(text, chance) for text in chance.sample(train, 200)]
    all_theirs = [sequences(text) for text in train]
    like = near(hashed(*texts), hashed(*train)).tolist()
    hits = misses = 0
    for text, index in zip(texts, like, strict=True):
        ours = sequences(text)
        best = max(len(ours & t) / len(ours | t) for t in all_theirs)
        if index >= 0:
            theirs = all_theirs[index]
            assert len(ours & theirs) >= SIMILAR * len(ours | theirs)
            hits += 1
        else:
            misses += best >= SIMILAR
    assert hits > 100
    assert hits < 190  # Some were edited too much.
    assert misses <= 0.02 * hits


def test_a_text_with_some_words_more_is_one() -> None:
    assert found(TICKET, f"FW: {TICKET.upper()}!")
    assert not found(TICKET, "the parcel was sent on monday and it came")
    # One word of twelve in the middle breaks three of its ten sequences.
    assert not found(TICKET, TICKET.replace("monday", "tuesday"))


def test_short_texts_are_left_out() -> None:
    short = " ".join(TICKET.split()[: LEAST_WORDS - 1])
    assert not found(short, short)
    assert near(hashed("", "a"), hashed(TICKET)).tolist() == [-1, -1]
    assert near(hashed(TICKET), hashed("", "a")).tolist() == [-1]
    assert near(hashed("a", TICKET), hashed("b", "c", TICKET)).tolist() == [-1, 2]


def test_scripts_without_blanks_are_compared_by_letters() -> None:
    chinese = "".join(map(chr, range(0x4E00, 0x4E20)))
    assert found(chinese, f"{chinese}\u4e00\u4e05")
    assert not found(chinese, chinese[::-1])


def test_a_letter_and_its_marks_are_one_word() -> None:
    """In scripts without blanks too: seven Thai letters with a vowel and a tone each are short."""
    letters = [f"{chr(code)}\u0e34\u0e48" for code in range(0xE01, 0xE01 + LEAST_WORDS)]
    assert not found("".join(letters[1:]), "".join(letters[1:]))
    assert found("".join(letters), "".join(letters))
    hindi = "\u0915\u093f"  # one word, a letter with a vowel
    assert not found(" ".join([hindi] * (LEAST_WORDS - 1)), " ".join([hindi] * (LEAST_WORDS - 1)))


def test_words_of_lists_and_of_pairs_are_one_text() -> None:
    words = TICKET.split()
    lists = Dataset.from_dict({"text": [words]})
    pairs = Dataset.from_dict({"a": [" ".join(words[:6])], "b": [" ".join(words[6:])]})
    assert near(HashedTexts.of(lists, ["text"]), hashed(TICKET)).tolist() == [0]
    assert near(HashedTexts.of(pairs, ["a", "b"]), hashed(TICKET)).tolist() == [0]


def test_signatures_are_the_same_everywhere() -> None:
    """Another hash function would find other pairs in the same data."""
    signature = hashed(TICKET).minima[0]
    assert signature[:3].tolist() == [52405195, 159770525, 1026668142]
    assert signature.shape == (64,)


def test_many_texts_of_one_kind_are_all_found() -> None:
    """A bucket that holds all rows costs each row a few comparisons."""
    train = hashed(*(f"{TICKET} {i}" for i in range(3000)))
    texts = hashed(*(f"{TICKET} {i}" for i in range(3000, 3300)))
    assert (near(texts, train) >= 0).all()
    assert (near(train, texts) >= 0).all()
