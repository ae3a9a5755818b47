"""A small trained classifier, and rows to measure it on."""

from __future__ import annotations

from pathlib import Path

import hub_seed
import pytest
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)


@pytest.fixture(scope="module")
def dense(seed_folder: Path) -> Path:
    return seed_folder / "models" / hub_seed.TEACHER


@pytest.fixture
def model(dense: Path) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(dense)


@pytest.fixture
def tokenizer(dense: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(dense)


@pytest.fixture
def rows(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    reviews = Dataset.from_list(hub_seed.reviews(32, seed=0))
    return reviews.map(lambda batch: tokenizer(batch["text"], truncation=True), batched=True)
