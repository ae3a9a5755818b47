"""A token classifier reads the same tokens in training and in prediction, with every tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from datasets import Dataset
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

from sparsekit.data.collator import IGNORED
from sparsekit.data.tokenized import text_columns
from sparsekit.errors import UserError
from sparsekit.runtime.tasks.token_classification import entities
from sparsekit.runtime.tasks.words import deciding_tokens, words_of
from sparsekit.tasks.token_classification import TokenClassification

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'.,"
WORD_PIECES = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
BYTES = [*SPECIAL, "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
UNIGRAMS = [*((name, 0.0) for name in SPECIAL), *((letter, -5.0) for letter in "▁\u200b" + LETTERS)]


def numbered(names: list[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


KINDS: dict[str, dict[str, Any]] = {
    **{kind: {"vocab": numbered(WORD_PIECES)} for kind in ("Bert", "MPNet")},
    **{kind: {"vocab": numbered(BYTES), "merges": []} for kind in ("Roberta", "Qwen2", "Deberta")},
    **{
        kind: {"vocab": UNIGRAMS}
        for kind in ("XLMRoberta", "Camembert", "Albert", "DebertaV2", "XLNet")
    },
    **{
        kind: {"vocab": numbered([name for name, _ in UNIGRAMS]), "merges": []}
        for kind in ("Llama", "Gemma")
    },
}
WORDS = ["Anna", "lives", "in", "New", "York", "\u200b", "City", "."]
TAGS = [1, 0, 0, 2, 3, 0, 3, 0]
NAMES = ["O", "B-PER", "B-LOC", "I-LOC"]
TASK = TokenClassification(max_length=64)


def tokenizer_of(kind: str, **options: Any) -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = getattr(transformers, f"{kind}Tokenizer")(
        **KINDS[kind], **options
    )
    return made


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return tokenizer_of(request.param)


def test_training_reads_the_tokens_of_the_text(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = Dataset.from_dict({"tokens": [WORDS], "tags": [TAGS]})
    columns = TASK.tokenize(rows, tokenizer)
    text = " ".join(WORDS)
    encoding = tokenizer.backend_tokenizer.encode(text)
    assert columns["input_ids"] == [encoding.ids]
    found = {text[word.start : word.end]: word.token for word in words_of(text, encoding)}
    found.pop("\u200b", None)
    # The words that training labels are those that prediction finds, with the same tokens.
    labelled = [token for token, tag in enumerate(columns["labels"][0]) if tag != IGNORED]
    assert labelled == list(found.values())
    tags = [tag for tag in columns["labels"][0] if tag != IGNORED]
    assert tags == [tag for tag, word in zip(TAGS, WORDS, strict=True) if word != "\u200b"]


def test_entities_of_a_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """A model that gives each token the tag that training gave it finds what training meant."""
    text = "Anna lives in New York City ."
    rows = Dataset.from_dict({"tokens": [text.split()], "tags": [[1, 0, 0, 2, 3, 3, 0]]})
    (labels,) = TASK.tokenize(rows, tokenizer)["labels"]
    encoding = tokenizer.backend_tokenizer.encode(text)
    chosen = np.eye(len(NAMES), dtype=np.float32)[[max(tag, 0) for tag in labels]]
    found = [(e["entity"], e["text"]) for e in entities(text, encoding, chosen, NAMES)]
    assert found == [("PER", "Anna"), ("LOC", "New York City")]


def test_words_that_are_cut_off_have_no_token() -> None:
    backend = tokenizer_of("Roberta").backend_tokenizer
    backend.enable_truncation(8)
    found = deciding_tokens(["Anna", "in", "Paris"], backend.encode("Anna in Paris"))
    assert found == [1, 5, None]


def test_words_with_blanks_inside_have_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    words = ["", "in", "New York", " ", "City"]
    encoding = tokenizer.backend_tokenizer.encode(" ".join(words))
    tokens = deciding_tokens(words, encoding)
    assert [token is None for token in tokens] == [True, False, False, True, False]
    assert [token for token in tokens if token is not None] == sorted(set(tokens) - {None})


def test_words_tokenized_without_blanks_are_refused() -> None:
    """As a user of the Python API may tokenize them for a RoBERTa."""
    words = {"words": [WORDS[:5]] * 3}
    for prefix in (True, False):
        tokenizer = tokenizer_of("Roberta", add_prefix_space=prefix)
        dataset = Dataset.from_dict(words)
        rows = dataset.map(
            lambda row, tokenizer=tokenizer: dict(tokenizer(row["words"], is_split_into_words=True))
        ).map(lambda row: {"length": len(row["input_ids"])})
        if prefix:
            assert text_columns(dataset, rows, tokenizer, words=True) == ("words",)
        else:
            with pytest.raises(UserError, match="load it with add_prefix_space=True"):
                text_columns(dataset, rows, tokenizer, words=True)
