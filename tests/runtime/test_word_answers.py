"""Entities and answers as characters of their texts, whatever tags and tokenizer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers, processors

from sparsekit.metrics.entities import spans
from sparsekit.runtime.tasks.question_answering import QuestionAnsweringAnswers, word_spans
from sparsekit.runtime.tasks.token_classification import entities

WORDS = ["Anna", "Bob", "in", "New", "York", "Paris"]
TEXT = "in  New York now "


def probabilities_of(tags: list[str], labels: list[str]) -> Any:
    return np.eye(len(labels), dtype=np.float32)[[labels.index(tag) for tag in tags]]


def with_marks(tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer` with a special token before each text."""
    tokenizer.add_special_tokens(["[CLS]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A",
        pair="[CLS] $A [CLS] $B:1",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]"))],
    )
    return tokenizer


def plain() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return with_marks(tokenizer)


def byte_level() -> Tokenizer:
    """As RoBERTa's, but without the post-processor that leaves the blanks out of the offsets."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return with_marks(tokenizer)


def metaspace() -> Tokenizer:
    """As DeBERTa-v3's."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return with_marks(tokenizer)


def blanks_last() -> Tokenizer:
    """A blank belongs to the word before it."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return with_marks(tokenizer)


TOKENIZERS = [plain, byte_level, metaspace, blanks_last]


@pytest.mark.parametrize("scheme", ["BI", "IE", "BIES", "BILU"])
def test_entities_are_those_that_the_metrics_count(scheme: str) -> None:
    """Every sequence of three tags of two types."""
    labels = ["O", *(f"{prefix}-{kind}" for prefix in scheme for kind in ("PER", "LOC"))]
    text = " ".join(WORDS[:3])
    encoding = plain().encode(text)
    for tags in itertools.product(labels, repeat=3):
        found = entities(text, encoding, probabilities_of(["O", *tags], labels), labels)
        expected = [(s.kind, " ".join(WORDS[s.start : s.end])) for s in spans(tags)]
        assert [(each["entity"], each["text"]) for each in found] == expected, tags


def words_of(encoding: Encoding) -> list[str]:
    """Of each token the word that it belongs to."""
    found = []
    for number in encoding.word_ids:
        own = [i for i, word in enumerate(encoding.word_ids) if word == number]
        found.append(TEXT[encoding.offsets[own[0]][0] : encoding.offsets[own[-1]][1]].strip())
    return found


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_entities_have_no_blanks_around_them(tokenizer: Any) -> None:
    encoding = tokenizer().encode(TEXT)
    labels = ["B-LOC", "I-LOC", "O"]
    tags = [{"New": "B-LOC", "York": "I-LOC"}.get(word, "O") for word in words_of(encoding)]
    [found] = entities(TEXT, encoding, probabilities_of(tags, labels), labels)
    assert (found["text"], found["start"], found["end"]) == ("New York", 4, 12)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_word_of_blanks_is_no_entity(tokenizer: Any) -> None:
    labels = ["B-LOC", "O"]
    encoding = tokenizer().encode(TEXT)
    everything = probabilities_of(["B-LOC"] * len(encoding), labels)
    found = [each["text"] for each in entities(TEXT, encoding, everything, labels)]
    assert found == TEXT.split()


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_answers_have_no_blanks_around_them(tokenizer: Any) -> None:
    """Whatever tokens are the start and the end."""
    encoding = tokenizer().encode("where?", TEXT)
    characters = word_spans(encoding)
    answered = QuestionAnsweringAnswers()
    tokens = [i for i, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
    found = set()
    for first, last in itertools.combinations_with_replacement(tokens, 2):
        starts, ends = np.full((2, len(encoding)), -9, dtype=np.float32)
        starts[first], ends[last] = 9, 9
        for each in answered.best(TEXT, [(starts, ends, characters)]):
            assert each["answer"] == TEXT[each["start"] : each["end"]] == each["answer"].strip()
            found.add(each["answer"])
    assert found >= {"in", "New York", "York now"}
