"""A model, its tokenizer and its rows, as a user of the Python API has them."""

from __future__ import annotations

import pytest
from api_training import tokenized
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)


@pytest.fixture
def model(student_folder: str) -> PreTrainedModel:
    """The pruned student, with the same new head each time."""
    set_seed(1)
    return AutoModelForSequenceClassification.from_pretrained(student_folder, num_labels=2)


@pytest.fixture(scope="module")
def tokenizer(student_folder: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(student_folder)


@pytest.fixture(scope="module")
def data(tokenizer: PreTrainedTokenizerBase) -> dict[str, Dataset]:
    """Tokenized reviews: `train_dataset` and `eval_dataset`."""
    return tokenized(tokenizer)
