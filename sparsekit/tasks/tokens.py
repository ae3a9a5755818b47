"""Data sets as the tokens of a model, once for a tokenizer and kept in the cache."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from sparsekit.cache import content_hash
from sparsekit.data.columns import BATCH
from sparsekit.data.datasets import kept_rows
from sparsekit.tasks.base import Data, Task
from sparsekit.tasks.cache_key import cache_key


def tokenize(
    data: Data, tokenizer: PreTrainedTokenizerBase, tokenizer_hash: str
) -> dict[str, Dataset]:
    """The splits as model inputs, from the cache if the same rows were tokenized before.

    They have `input_ids`, `attention_mask`, further inputs of the model, `labels` and `length`.
    """
    return {split: _tokenize(data, split, tokenizer, tokenizer_hash) for split in data.splits}


def made(task: Task, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The model inputs of `rows`, which are in the task's own form, without the cache."""
    starts = range(0, len(rows), BATCH)
    batches = (rows.select(range(at, min(at + BATCH, len(rows)))) for at in starts)
    return concatenate_datasets(
        [Dataset.from_dict(task.tokenize(batch, tokenizer)) for batch in batches]
    )


def _tokenize(
    data: Data, split: str, tokenizer: PreTrainedTokenizerBase, tokenizer_hash: str
) -> Dataset:
    def make(folder: Path) -> None:
        made(data.task, data.splits[split], tokenizer).save_to_disk(str(folder))

    # Models of one vocabulary may read different inputs: DistilBERT has no token types, BERT has.
    identity = [tokenizer_hash, *tokenizer.model_input_names, *cache_key(data.task)]
    key = content_hash([data.fingerprint(split), *identity, *data.label_names])
    return kept_rows("tokens", key, make)
