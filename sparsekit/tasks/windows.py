"""The windows of contexts: rows of a model that reads a question and a part of its context."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Encoding
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sparsekit.data.collator import Collator
from sparsekit.errors import UserError
from sparsekit.runtime.encoder import most_question_tokens
from sparsekit.runtime.tasks.question_answering import word_spans


def windows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, doc_stride: int
) -> dict[str, Any]:
    """The columns of the windows of `rows`, which are in the form of `QuestionAnswering`.

    Each window has the tokens of its question and at most `max_length` in all; two successive ones
    share `doc_stride` tokens of the context. Raises UserError for a question that is too long.
    """
    _check_questions(rows, tokenizer, max_length, doc_stride)
    encoded = tokenizer(
        rows["text"][:],
        rows["text_pair"][:],
        truncation="only_second",
        max_length=max_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
    )
    columns = dict(encoded)
    questions = columns.pop("overflow_to_sample_mapping")
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    assert encoded.encodings is not None
    labels = []
    pairs = zip(questions, encoded.encodings, strict=True)
    for question, each in groupby(pairs, key=itemgetter(0)):
        row = rows[question]
        labels += [_label(row, encoding, number) for number, (_, encoding) in enumerate(each)]
    return {**columns, "labels": labels}


class QuestionCollator(Collator):
    """Adds `start_positions` and `end_positions`, which the models' loss reads, to a batch.

    `labels` are the numbers of question and window, [rows, 2].
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        plain = [{n: v for n, v in row.items() if n != "labels"} for row in rows]
        batch = super().__call__(plain)
        if "labels" in rows[0]:
            labels = [row["labels"] for row in rows]
            batch["start_positions"] = torch.tensor([label["first"] for label in labels])
            batch["end_positions"] = torch.tensor([label["last"] for label in labels])
            numbers = [[label["index"], label["window"]] for label in labels]
            batch["labels"] = torch.tensor(numbers)
        return batch


def _check_questions(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, doc_stride: int
) -> None:
    """Raise UserError for a question that leaves no room for its context."""
    questions = tokenizer(rows["text"][:], add_special_tokens=False)["input_ids"]
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    most = most_question_tokens(room, doc_stride)
    longest = max(range(len(questions)), key=lambda row: len(questions[row]))
    if len(questions[longest]) > most:
        raise UserError(
            f"question {rows[longest]['index']} (from 0) has {len(questions[longest])} tokens, "
            f"{rows[longest]['text']!r:.60}; dataset.max_length={max_length} and "
            f"dataset.doc_stride={doc_stride} leave room for {most}: shorten it, or "
            "set a larger dataset.max_length or a smaller dataset.doc_stride"
        )


def _label(row: Mapping[str, Any], encoding: Encoding, number: int) -> dict[str, Any]:
    """How a window is trained and scored.

    The first window alone has the context: with one in each, memory grows with its length squared.
    """
    spans = word_spans(encoding)
    first, last = _target(row, encoding, spans)
    return {
        "index": row["index"],
        "question": row["text"],
        "window": number,
        "first": first,
        "last": last,
        "context": None if number else row["text_pair"],
        "answers": row["answers"],
        "spans": spans.tolist(),
    }


def _target(row: Mapping[str, Any], encoding: Encoding, spans: np.ndarray) -> tuple[int, int]:
    """The first and the last token of the first answer; 0 and 0 where the window does not hold it.

    spans: the result of `word_spans`.
    """
    if not row["answers"]:
        return 0, 0
    start = row["starts"][0]
    end = start + len(row["answers"][0])
    tokens = [
        token
        for token, (begin, stop) in enumerate(encoding.offsets)
        if spans[token, 0] >= 0 and begin < end and stop > start
    ]
    context = np.flatnonzero(spans[:, 0] >= 0)
    held = len(context) and (
        encoding.offsets[context[0]][0] <= start and encoding.offsets[context[-1]][1] >= end
    )
    return (tokens[0], tokens[-1]) if tokens and held else (0, 0)
