"""Statistics of the data before training, and problems that affect the result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from sparsekit.data.advice import warnings
from sparsekit.data.columns import stored
from sparsekit.data.profile import profile
from sparsekit.data.profile_table import table
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.report import show
from sparsekit.tasks.base import Data, Task

# Longer than any text: nothing is cut off.
_UNCUT = 10**7


def data_figures(
    raw: Mapping[str, Dataset],
    data: Data,
    tokenized: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase | None,
    positions: int | None,
) -> dict[str, Any]:
    """What `data.json` holds: figures of each split, lengths in tokens, and warnings.

    Args:
        raw: the rows as they were read, with their origin.
        data: the same rows in the form of their task.
        tokenized: the same rows as tokens; without them lengths are left out.
        tokenizer: the one that made them.
        positions: the tokens that the student reads at most; None has no limit.
    """
    columns = data.task.columns()
    classes = {}
    if any(column.role == "class" for column in columns):
        classes = {split: np.asarray(rows["label"][:]) for split, rows in data.splits.items()}
    texts = [column.name for column in columns if column.is_text]
    used = {split: raw[split] for split in data.splits}
    figures = profile(used, texts, classes, data.label_names)
    figures |= {"max_length": data.task.max_length, "longest_input": positions}
    for split, rows in tokenized.items():
        # A task may make several rows of one text.
        if tokenizer is not None and len(rows) == len(data.splits[split]):
            lengths = _lengths(data.task, data.splits[split], rows, tokenizer)
            figures["splits"][split]["tokens"] = lengths
    return figures | {"warnings": warnings(figures, data.task.metrics)}


def record_figures(figures: Mapping[str, Any], run: RunFolder) -> None:
    """Write `data.json`."""
    run.data.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def show_figures(figures: Mapping[str, Any]) -> None:
    """Print the figures and the warnings to stderr."""
    show(table(figures), stderr=True)
    console = Console(stderr=True)
    for warning in figures["warnings"]:
        console.print(Text(f"warning: {warning}", overflow="fold"), soft_wrap=True)


def _lengths(
    task: Task, rows: Dataset, tokenized: Dataset, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Lengths in tokens of whole texts, the rows that are cut, and the share of unknown tokens."""
    lengths = np.asarray(stored(tokenized, "length"), dtype=np.int64).copy()
    full = np.flatnonzero(lengths >= task.max_length)
    if len(full):
        whole = replace(task, max_length=_UNCUT)
        lengths[full] = whole.tokenize(rows.select(full), tokenizer)["length"]
    median, p99 = np.percentile(lengths, [50, 99], method="higher").tolist()
    return {
        "median": median,
        "p99": p99,
        "max": int(lengths.max()),
        "cut": int((lengths > task.max_length).sum()),
        "unknown": _unknown(tokenized, tokenizer.unk_token_id),
    }


def _unknown(tokenized: Dataset, unknown: int | None) -> float:
    """The share of tokens that the tokenizer does not know."""
    if unknown is None:
        return 0.0
    chunks = [np.asarray(chunk.flatten()) for chunk in stored(tokenized, "input_ids").chunks]
    return sum(int((ids == unknown).sum()) for ids in chunks) / sum(map(len, chunks))
