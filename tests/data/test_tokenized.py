"""Data sets that a user tokenized himself."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import hub_seed
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sparsekit.data.tokenized import class_names, text_columns, token_counts, tokenized_rows
from sparsekit.errors import UserError
from sparsekit.tasks.text_classification import TextClassification

INPUTS = ["input_ids", "token_type_ids", "attention_mask"]


@pytest.fixture(scope="module")
def tokenizer(seed_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(seed_folder / "models" / hub_seed.STUDENT)


@pytest.fixture
def reviews() -> Dataset:
    return Dataset.from_list(hub_seed.reviews(20, seed=0))


def tokenize(reviews: Dataset, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Dataset:
    return reviews.map(
        lambda rows: tokenizer(rows["text"], truncation=True, **options), batched=True
    )


def prepared(dataset: object, **options: Any) -> Dataset:
    check = partial(TextClassification().check_rows, 2)
    return tokenized_rows(dataset, INPUTS, check, "train_dataset", **options)


def test_columns_of_the_model_with_labels_and_length(
    reviews: Dataset, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = prepared(tokenize(reviews, tokenizer))
    assert set(rows.column_names) == {*INPUTS, "labels", "length"}
    assert rows["labels"][:] == reviews["label"][:]
    assert rows["length"][:] == [len(ids) for ids in rows["input_ids"]]
    kept = prepared(tokenize(reviews, tokenizer), keep=True)
    assert "text" in kept.column_names


def test_padding_does_not_count(reviews: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    plain = tokenize(reviews, tokenizer, max_length=64)
    padded = tokenize(reviews, tokenizer, max_length=64, padding="max_length")
    assert {len(ids) for ids in padded["input_ids"]} == {64}
    assert token_counts(padded).tolist() == [len(ids) for ids in plain["input_ids"]]
    assert token_counts(padded.select(range(5, 9))).tolist() == token_counts(padded).tolist()[5:9]


def test_the_text_columns_are_found(reviews: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    for options in ({}, {"max_length": 8}, {"max_length": 64, "padding": "max_length"}):
        dataset = tokenize(reviews, tokenizer, **options).add_column("id", ["x"] * len(reviews))
        assert text_columns(dataset, prepared(dataset), tokenizer) == ("text",)
    without = dataset.remove_columns("text")
    assert text_columns(without, prepared(without), tokenizer) == ()


def test_pairs_are_found_in_their_order(
    reviews: Dataset, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = reviews["text"][:]
    pairs = reviews.rename_column("text", "second").add_column("first", texts[::-1])
    dataset = pairs.map(
        lambda rows: tokenizer(rows["first"], rows["second"], truncation=True), batched=True
    )
    assert text_columns(dataset, prepared(dataset), tokenizer) == ("first", "second")


def test_class_names(reviews: Dataset) -> None:
    assert class_names(reviews) is None
    assert class_names(reviews.cast_column("label", ClassLabel(names=["neg", "pos"]))) == [
        "neg",
        "pos",
    ]


def row(labels: Any, kind: Any = None, ids: Any = ((1, 2),)) -> Dataset:
    features = Features({"labels": kind or Value("int64"), "input_ids": List(Value("int32"))})
    return Dataset.from_dict({"labels": labels, "input_ids": ids}, features=features)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (DatasetDict(train=row([0])), "train_dataset is a mapping of the splits train"),
        ([1, 2], "train_dataset is of type list; give a datasets.Dataset"),
        (row([], ids=[]), "train_dataset has no rows"),
        (row([0]).to_iterable_dataset(), "is of type IterableDataset"),
        (row([0]).remove_columns("input_ids"), "no column input_ids; it has labels; tokenize it"),
        (row([0]).remove_columns("labels"), "no column labels; it has input_ids; rename"),
        (row([0.5], Value("float32")), "column labels holds float32"),
        (row([True], Value("bool")), r"column labels holds bool.*class_encode_column"),
        (row(["pos"], Value("string")), r"column labels holds string.*class_encode_column"),
        (
            row(["pos"], Value("string")).rename_column("labels", "label"),
            r"column label holds string.*class_encode_column\('label'\)",
        ),
        (row([[0, 1]], List(Value("int64"))), "column labels holds List"),
        (row([2]), r"row 0 \(from 0\) has the label 2, the model has the labels 0 to 1"),
        (row([0, -1], ids=[[1], [2]]), r"row 1 \(from 0\) has the label -1"),
        (row([0, None], ids=[[1], [2]]), r"row 1 \(from 0\) has the label None"),
        (row([0, 1], ids=[[1], []]), r"row 1 \(from 0\) has no tokens"),
    ],
)
def test_what_cannot_be_trained_on(dataset: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepared(dataset)
