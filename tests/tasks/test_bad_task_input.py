"""What is wrong with the data or the teacher of a task: one error that names row and fix."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertConfig

from sparsekit.data.datasets import FileDataset
from sparsekit.errors import ConfigError, UserError
from sparsekit.tasks.base import Task
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.masked_lm import MaskedLM
from sparsekit.tasks.multi_label import MultiLabel
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.regression import Regression
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.token_classification import TokenClassification

Rows = list[dict[str, Any]]
TAGGED: Rows = [
    {"tokens": ["the", "plot"], "tags": ["O", "B-a"]},
    {"tokens": ["dull", "."], "tags": ["B-o", "O"]},
]
ANSWERED = {
    "question": "where ?",
    "context": "the key is here",
    "answers": {"text": ["here"], "answer_start": [11]},
}
LABELLED: Rows = [{"text": "a", "labels": ["x"]}, {"text": "b", "labels": ["y"]}]
SCORED = {"text": "a", "other": "b", "label": 1.0}
TASKS = [
    Embedding,
    MaskedLM,
    MultiLabel,
    QuestionAnswering,
    Regression,
    TextClassification,
    TokenClassification,
]
PAIRS = Embedding(text_columns=["text", "other"], score_column="label")


def source(folder: Path, train: Rows, validation: Rows) -> FileDataset:
    files: dict[str, str | None] = {}
    for split, rows in (("train", train), ("validation", validation)):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files[split] = str(path)
    return FileDataset(data_files=files)


@pytest.mark.parametrize(
    ("task", "train", "validation", "message"),
    [
        (
            TokenClassification(),
            [*TAGGED, {"tokens": ["a", "b"], "tags": ["O"]}],
            TAGGED,
            "train.jsonl, line 3: 2 tokens and 1 tags; give each token of 'tokens' its tag in "
            "'tags'",
        ),
        (
            TokenClassification(),
            [*TAGGED, {"tokens": ["a"], "tags": ["PER"]}],
            TAGGED,
            "train.jsonl, line 3, column 'tags': tag 'PER' has no B- or I- before its type, as the "
            "other tags have; write B-PER",
        ),
        (
            TokenClassification(),
            [*TAGGED, {"tokens": ["x" * 500], "tags": ["O"]}],
            TAGGED,
            "train.jsonl, line 3: column 'tokens' holds a token of 500 characters, more than 256: "
            "split it into words, or remove the row",
        ),
        (
            TokenClassification(),
            [*TAGGED, {"tokens": [], "tags": []}],
            TAGGED,
            "train.jsonl, line 3: column 'tokens' is empty; remove the row",
        ),
        (
            QuestionAnswering(),
            [ANSWERED, {**ANSWERED, "answers": {"text": ["here"], "answer_start": [3]}}],
            [ANSWERED],
            "train.jsonl, line 2: the answer 'here' is not at character 3 of the context, where "
            "' key' is; correct answer_start, which counts characters from 0",
        ),
        (
            MultiLabel(),
            LABELLED,
            [{"text": "c", "labels": ["z"]}],
            "validation.jsonl, line 1: column 'labels': label 'z' is not one of train's: x, y; "
            "correct it, or remove it from the list",
        ),
        (
            Regression(),
            [SCORED, {**SCORED, "label": float("nan")}],
            [SCORED],
            "train.jsonl, line 2: column 'label' has no finite number in 1 of 2 rows, such as "
            "NaN or missing; remove these rows or fill them",
        ),
        (
            PAIRS,
            [SCORED, {**SCORED, "label": float("nan")}],
            [SCORED],
            "train.jsonl, line 2: column 'label' has no finite number in 1 of 2 rows, such as "
            "NaN or missing; remove these rows or fill them",
        ),
    ],
)
def test_rows_that_are_wrong(
    task: Task, train: Rows, validation: Rows, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        task.load(source(tmp_path, train, validation))
    assert raised.value.problems == [f"{tmp_path}/{message}"]


def test_a_context_shorter_than_the_stride_is_one_window(
    student_folder: str, tmp_path: Path
) -> None:
    """Also one that is a single word of 500 characters, which the tokenizer does not know."""
    word = "x" * 500
    long = {**ANSWERED, "context": word, "answers": {"text": [word], "answer_start": [0]}}
    task = QuestionAnswering(max_length=64, doc_stride=32)
    data = task.load(source(tmp_path, [ANSWERED, long], [ANSWERED]))
    rows = task.tokenize(data.splits["train"], AutoTokenizer.from_pretrained(student_folder))
    assert [label["window"] for label in rows["labels"]] == [0, 0]
    spans = [label["spans"][label["first"]] for label in rows["labels"]]
    assert spans == [[11, 15], [0, 500]]


CLASSIFIER = "BertForSequenceClassification"
TAGGER = "BertForTokenClassification"


@pytest.mark.parametrize(
    ("task", "architecture", "message"),
    [
        (
            TokenClassification(),
            CLASSIFIER,
            "the teacher 'big' is BertForSequenceClassification, which labels no tokens; choose a "
            "checkpoint fine-tuned for token classification",
        ),
        (
            QuestionAnswering(),
            CLASSIFIER,
            "the teacher 'big' is BertForSequenceClassification, which answers no questions; "
            "choose a checkpoint fine-tuned for question answering",
        ),
        (
            MaskedLM(),
            CLASSIFIER,
            "the teacher 'big' is BertForSequenceClassification, which predicts no hidden words; "
            "choose a checkpoint pretrained for masked language modeling",
        ),
        (
            Embedding(),
            CLASSIFIER,
            "the teacher 'big' is BertForSequenceClassification, not an encoder of embeddings; "
            "choose a checkpoint whose config.json names an architecture such as BertModel, as "
            "those of sentence-transformers do",
        ),
        (
            Regression(),
            TAGGER,
            "the teacher 'big' is BertForTokenClassification with 2 outputs, not a model of one "
            "number; choose a checkpoint fine-tuned for regression, such as a cross-encoder",
        ),
        (
            MultiLabel(),
            TAGGER,
            "the teacher 'big' is BertForTokenClassification with the problem_type None, so its "
            "outputs are not one probability for each label; choose a checkpoint whose config.json "
            "has 'multi_label_classification'",
        ),
    ],
)
def test_a_teacher_of_another_task(task: Task, architecture: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        task.teacher_order(BertConfig(num_labels=2), [architecture], "big", ["a", "b"])
    assert str(raised.value) == message


def test_a_teacher_of_tokens_does_not_classify_texts() -> None:
    with pytest.raises(UserError, match=r"^the teacher 'big' is BertForTokenClassification"):
        TextClassification().teacher_order(BertConfig(num_labels=2), [TAGGER], "big", ["a", "b"])


@pytest.mark.parametrize("task", TASKS)
def test_every_task_checks_its_settings_before_the_data_are_read(task: type[Task]) -> None:
    assert task().problems() == []
    found = " ".join(task(max_length=1).problems())
    assert "dataset.max_length 1" in found
    if "text_columns" in {field.name for field in fields(task)}:
        found = " ".join(task(max_length=1, text_columns=[], metrics=["none"]).problems())
        for setting in ("dataset.max_length", "dataset.text_columns []", "'none' is not known"):
            assert setting in found
