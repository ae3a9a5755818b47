"""Data sets that a user tokenized, brought to the columns that training reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, permutations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Value
from transformers import PreTrainedTokenizerBase

from sparsekit.cache import content_hash
from sparsekit.data.columns import item_feature
from sparsekit.errors import UserError

# The label column by transformers' name, and by that of most data sets.
LABELS = ("labels", "label")
# Rows whose text is tokenized again to find out which columns the tokens come from.
SAMPLE = 64


@dataclass(frozen=True)
class Tokenized:
    """A user's data set, given as the argument `name`, and its rows as training reads them."""

    name: str
    dataset: Dataset
    rows: Dataset

    @property
    def longest(self) -> int:
        """The tokens of the longest row."""
        return int(max(self.rows["length"]))


def tokenized_rows(
    dataset: object,
    inputs: Sequence[str],
    check: Callable[[Dataset, str, str], None],
    name: str,
    *,
    keep: bool = False,
    labelled: bool = True,
) -> Dataset:
    """The rows of `dataset` with the model's inputs, `labels` and `length`, the count of tokens.

    Args:
        dataset: a `datasets.Dataset` with `input_ids` and the column `labels` or `label`.
        inputs: the tokenizer's `model_input_names`.
        check: raises UserError where the column `labels` does not fit the task; it is called with
            the rows, `name` and the column's name in `dataset`.
        name: the argument that the user gave `dataset` as, for error messages.
        keep: keep the other columns too, for a data collator that reads them.
        labelled: whether there must be labels.

    Raises UserError that names the column or the row, and the fix.
    """
    rows = _with_tokens(dataset, name)
    column = next((column for column in LABELS if column in rows.column_names), None)
    if column is None and labelled:
        raise UserError(
            f"{name} has no column labels; it has {', '.join(rows.column_names)}; rename the "
            "column of classes: data.rename_column(COLUMN, 'labels')"
        )
    if column is not None:
        rows = rows if column == "labels" else rows.rename_column(column, "labels")
        check(rows, name, column)
    if not keep:
        rows = rows.select_columns([c for c in rows.column_names if c in (*inputs, "labels")])
    lengths = token_counts(rows)
    if not lengths.all():
        raise UserError(f"{name}, row {int(np.argmin(lengths))} (from 0) has no tokens; remove it")
    if "length" in rows.column_names:
        rows = rows.remove_columns("length")
    return rows.add_column("length", lengths.tolist())


def _with_tokens(dataset: object, name: str) -> Dataset:
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(str, dataset))
        raise UserError(f"{name} is a mapping of the splits {splits}; give one of them")
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"{name} is of type {type(dataset).__name__}; give a datasets.Dataset, such as "
            "load_dataset(..., split='train') and Dataset.from_dict return"
        )
    if not len(dataset):
        raise UserError(f"{name} has no rows")
    if "input_ids" not in dataset.column_names:
        raise UserError(
            f"{name} has no column input_ids; it has {', '.join(dataset.column_names)}; tokenize "
            "it first: data.map(lambda rows: tokenizer(rows['text'], truncation=True), "
            "batched=True)"
        )
    return dataset.with_format(None)


def token_counts(rows: Dataset) -> npt.NDArray[np.int64]:
    """The tokens of each row that are not padding, [rows]."""
    table = rows.with_format("arrow")[:]
    if "attention_mask" not in table.column_names:
        return np.asarray(pc.list_value_length(table["input_ids"]), dtype=np.int64)
    masks = table["attention_mask"]
    sizes = np.asarray(pc.list_value_length(masks))
    flat = np.asarray(pc.list_flatten(masks), dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum(flat)])[np.cumsum(sizes)]
    counts: npt.NDArray[np.int64] = np.diff(ends, prepend=0)
    return counts


def rows_hash(rows: Dataset, columns: Sequence[str]) -> str:
    """A hash of what columns of numbers, of lists of numbers, or of objects hold."""
    table = rows.with_format("arrow")[:]
    parts: list[str | bytes] = []
    for name in columns:
        values = table[name]
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            parts.append(np.asarray(pc.list_value_length(values), dtype=np.int64).tobytes())
            values = pc.list_flatten(values)
        if pa.types.is_struct(values.type):
            parts += [name, json.dumps(values.to_pylist())]
            continue
        fractions = pa.types.is_floating(values.type)
        parts += [name, np.asarray(values, dtype=np.float64 if fractions else np.int64).tobytes()]
    return content_hash(parts)


def class_names(dataset: Dataset) -> list[str] | None:
    """The names of the classes, where the label column is a ClassLabel."""
    feature = next((dataset.features[c] for c in LABELS if c in dataset.column_names), None)
    feature = item_feature(feature) or feature
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def text_columns(
    dataset: Dataset, rows: Dataset, tokenizer: PreTrainedTokenizerBase, words: bool = False
) -> tuple[str, ...]:
    """The column of `dataset`, or the two, that the tokens of `rows` were made of.

    Found by tokenizing the first rows again; empty where no column gives these tokens.

    words: whether to look among columns of lists of words, which blanks join, instead of texts.

    Raises UserError for words that were tokenized without the blanks between them.
    """
    count, longest = min(SAMPLE, len(rows)), int(max(rows["length"]))
    sample, expected = dataset.with_format(None)[:count], tokens(rows.select(range(count)))
    texts = [
        name
        for name, feature in dataset.features.items()
        if _is_text(item_feature(feature) if words else feature) and None not in sample[name]
    ]
    pairs = permutations(texts, 2) if not words else ()
    for columns in chain(permutations(texts, 1), pairs):
        chosen = [sample[name] for name in columns]
        cut = {"truncation": True, "max_length": longest}
        if words:
            (lists,) = chosen
            chosen = [[" ".join(row) for row in lists]]
        if tokenizer(*chosen, **cut)["input_ids"] == expected:
            return columns
        if words and tokenizer(lists, is_split_into_words=True, **cut)["input_ids"] == expected:
            raise UserError(
                f"the words of column {columns[0]!r} were tokenized without the blanks between "
                f"them, and {type(tokenizer).__name__} gives them other tokens in a text: load it "
                "with add_prefix_space=True, or tokenize the words joined by blanks"
            )
    return ()


def _is_text(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def tokens(rows: Dataset) -> list[list[int]]:
    """The token ids of each row without its padding."""
    if "attention_mask" not in rows.column_names:
        return list(rows["input_ids"])
    return [
        [token for token, real in zip(ids, mask, strict=True) if real]
        for ids, mask in zip(rows["input_ids"], rows["attention_mask"], strict=True)
    ]
