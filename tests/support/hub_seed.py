"""Tiny stand-ins, under the real ids, for what `dataset=rotten_tomatoes teacher=textattack` loads.

They have the shape of the real repositories: weights as `pytorch_model.bin` only, a pruned
masked-LM student, a teacher with generic labels, and the teacher's masked-LM twin (an underscore
instead of the last hyphen), which must be refused.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from sparsekit.models.tiny import vocabulary

DATASET = "cornell-movie-review-data/rotten_tomatoes"
STUDENT = "neuralmagic/oBERT-12-upstream-pruned-unstructured-90-v2"
TEACHER = "textattack/bert-base-uncased-rotten-tomatoes"
MASKED_LM_TWIN = "textattack/bert-base-uncased-rotten_tomatoes"
ROWS = {"train": 96, "validation": 32, "test": 32}

SUBJECTS = ["the plot", "the cast", "this film", "the script", "the ending", "its humor"]
ADVERBS = ["", "truly ", "mostly ", "never quite ", "surprisingly "]
WORDS = {0: ["dull", "bland", "clumsy", "lifeless"], 1: ["warm", "witty", "gripping", "tender"]}
TAILS = ["", " from start to finish", " , and it shows", " despite its length"]

README = """---
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': neg
          '1': pos
configs:
- config_name: default
  data_files:
  - split: train
    path: train.parquet
  - split: validation
    path: validation.parquet
  - split: test
    path: test.parquet
---
"""


def reviews(rows: int, seed: int) -> list[dict[str, str | int]]:
    """Distinct short reviews, shuffled, with as many of each label as `rows` allows."""
    generator = random.Random(seed)
    pools = []
    for label, words in WORDS.items():
        texts = [
            f"{subject} is {adverb}{word}{tail} ."
            for subject, adverb, word, tail in itertools.product(SUBJECTS, ADVERBS, words, TAILS)
        ]
        generator.shuffle(texts)
        pools.append([{"text": text, "label": label} for text in texts])
    mixed = [row for pair in zip(*pools, strict=True) for row in pair][:rows]
    generator.shuffle(mixed)
    return mixed


def write(folder: Path) -> None:
    """Write the repositories into a folder that `hub.serve` can serve."""
    rows = reviews(sum(ROWS.values()), seed=0)
    write_dataset(folder / "datasets" / DATASET, rows)
    tokens = vocabulary(str(row["text"]) for row in rows)
    torch.manual_seed(0)
    config = small_bert(tokens)
    student = BertForMaskedLM(config)
    prune(student, 0.9)
    write_model(folder / "models" / STUDENT, student, tokens)
    write_model(folder / "models" / TEACHER, BertForSequenceClassification(config), tokens)
    write_model(folder / "models" / MASKED_LM_TWIN, BertForMaskedLM(config), tokens)


def write_dataset(folder: Path, rows: list[dict[str, str | int]]) -> None:
    folder.mkdir(parents=True)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    start = 0
    for split, count in ROWS.items():
        part = Dataset.from_list(rows[start : start + count], features=features)
        part.to_parquet(folder / f"{split}.parquet")
        start += count
    (folder / "README.md").write_text(README)


@torch.no_grad()
def prune(model: BertForMaskedLM, sparsity: float) -> None:
    """Zero the smallest weights of each encoder Linear."""
    for module in model.bert.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            flat = module.weight.view(-1)
            flat[flat.abs().argsort()[: round(flat.numel() * sparsity)]] = 0.0


def small_bert(tokens: Sized, **changes: Any) -> BertConfig:
    """A BERT of two narrow layers for a vocabulary of these tokens."""
    shape: dict[str, Any] = {
        **{"hidden_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "intermediate_size": 64},
    }
    return BertConfig(vocab_size=len(tokens), **shape | changes)


def write_model(folder: Path, model: torch.nn.Module, tokens: list[str]) -> None:
    folder.mkdir(parents=True)
    model.config.architectures = [type(model).__name__]
    (folder / "config.json").write_text(model.config.to_json_string())
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    settings = {"do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
