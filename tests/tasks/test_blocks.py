"""Streamed rows of every task are tokenized as a table's are, and their labels are validation's."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import pytest
import tagged
from datasets import Dataset, DatasetDict
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sparsekit.data.datasets import FileDataset
from sparsekit.data.selection import RowSelection, SelectedRows
from sparsekit.errors import ConfigError
from sparsekit.tasks.base import Task
from sparsekit.tasks.blocks import TaskBlocks, known_rows, load_tables
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.masked_lm import MaskedLM
from sparsekit.tasks.multi_label import MultiLabel
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.regression import Regression
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.token_classification import TokenClassification
from sparsekit.tasks.tokens import tokenize
from sparsekit.training.stream import StreamedRows, grouped

Rows = list[dict[str, Any]]


def reviews() -> list[dict[str, Any]]:
    return [{**row, "label": ["neg", "pos"][row["label"]]} for row in hub_seed.reviews(23, seed=0)]


def answers() -> list[dict[str, Any]]:
    made = []
    for row in reviews():
        word = row["text"].split()[1]
        answer = {"text": [word], "answer_start": [row["text"].index(word)]}
        made.append({"question": "good", "context": row["text"], "answers": answer})
    return made


def several() -> list[dict[str, Any]]:
    return [
        {**row, "labels": [["neg", "pos", "long"][i] for i in range(number % 3)]}
        for number, row in enumerate(reviews())
    ]


TASKS: list[tuple[Task, list[dict[str, Any]]]] = [
    (TextClassification(), reviews()),
    (MultiLabel(), several()),
    (Regression(label_column="score"), [{**r, "score": i / 7} for i, r in enumerate(reviews())]),
    (TokenClassification(), tagged.rows(23, seed=0)),
    (QuestionAnswering(max_length=16, doc_stride=4), answers()),
    (MaskedLM(maskings=2), reviews()),
    (Embedding(), reviews()),
]


@pytest.fixture(scope="module")
def tokenizer(student_folder: str) -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(student_folder)
    return made


def written(
    folder: Path, rows: list[dict[str, Any]], **splits: list[dict[str, Any]]
) -> FileDataset:
    files: dict[str, str | None] = {}
    for split, part in {"train": rows, "validation": rows, **splits}.items():
        files[split] = str(folder / f"{split}.jsonl")
        Path(str(files[split])).write_text("".join(json.dumps(row) + "\n" for row in part))
    return FileDataset(data_files=files)


def blocks_of(
    source: FileDataset, task: Task, size: int = 5, selection: RowSelection | None = None
) -> TaskBlocks:
    selected = SelectedRows(source, selection or RowSelection())
    tables = selected.without_train().raw(task.columns())
    known = known_rows(tables["validation"], task.columns())
    return TaskBlocks(selected, known, load_tables(task, tables), {}, size)


def streamed(
    blocks: TaskBlocks, tokenizer: PreTrainedTokenizerBase, **options: Any
) -> StreamedRows:
    settings: dict[str, Any] = {"seed": 3, "shuffled": True, "batch": None, **options}
    first = Dataset.from_dict({})
    task = blocks.data.task
    return StreamedRows(blocks, task, tokenizer, first=first, fingerprint="", **settings)


@pytest.mark.parametrize(("task", "rows"), TASKS, ids=[task.name for task, _ in TASKS])
def test_a_stream_has_the_tokens_of_the_table(
    task: Task, rows: list[dict[str, Any]], tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    source = written(tmp_path, rows)
    table = tokenize(task.load(source), tokenizer, "tests")["train"]
    stream = streamed(blocks_of(source, task), tokenizer, shuffled=False)
    found = list(islice(stream, 2 * len(table)))
    # Twice, because it has no end.
    for row, expected in zip(found, [*table, *table], strict=True):
        # Questions and pairs are numbered within their block: training reads only the rest.
        if not isinstance(task, QuestionAnswering | Embedding):
            assert row["labels"] == expected["labels"]
        assert row["input_ids"] == expected["input_ids"]


def test_rows_are_shuffled_within_their_block_and_otherwise_in_each_pass(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [{"text": "good " * (number + 1), "label": number % 2} for number in range(20)]
    task = TextClassification()
    blocks = blocks_of(written(tmp_path, rows), task, size=10)
    texts = {tuple(tokenizer(row["text"])["input_ids"]): n for n, row in enumerate(rows)}
    assert len(texts) == len(rows)

    def order(**options: Any) -> list[int]:
        stream = streamed(blocks, tokenizer, **options)
        return [texts[tuple(row["input_ids"])] for row in islice(stream, 40)]

    found = order()
    assert [set(found[at : at + 10]) for at in range(0, 40, 10)] == [
        set(range(10)),
        set(range(10, 20)),
    ] * 2
    assert found[:20] != found[20:] and found[:10] != sorted(found[:10])
    assert order() == found and order(seed=4) != found
    assert order(shuffled=False) == [*range(20), *range(20)]


def test_rows_of_a_batch_are_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 100, 70)
    order = grouped(lengths, 8, np.random.default_rng(1))
    assert sorted(order) == list(range(70))
    batches = [lengths[order[at : at + 8]] for at in range(0, 64, 8)]
    assert max(batch.max() - batch.min() for batch in batches) < 25
    assert [batch.max() for batch in batches] != sorted((b.max() for b in batches), reverse=True)


def test_a_resumed_stream_asks_the_teacher_for_the_rest_alone(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    stream = streamed(blocks_of(written(tmp_path, reviews()), TextClassification()), tokenizer)
    asked = []

    def teach(rows: Dataset) -> Dataset:
        asked.append(len(rows))
        return rows

    stream.teach, stream.passed = teach, 12
    assert len(list(islice(stream, 23))) == 23
    # Blocks of 5, the last of 3: the first two were passed.
    assert asked == [5, 5, 3]


@pytest.mark.parametrize("labels", ["class", "tags", "names"])
def test_a_label_that_validation_lacks_is_named_with_its_line(tmp_path: Path, labels: str) -> None:
    rows, task = {
        "class": (reviews(), TextClassification()),
        "tags": (tagged.rows(23, seed=0), TokenClassification()),
        "names": (several(), MultiLabel()),
    }[labels]
    other = json.loads(json.dumps(rows).replace('"pos"', '"other"').replace("-opinion", "-other"))
    source = written(tmp_path, [*rows[:10], *other], validation=rows)
    blocks = blocks_of(source, task)
    reading = iter(blocks)
    assert len([next(reading), next(reading)]) == 2
    with pytest.raises(ConfigError, match=r"train\.jsonl, lines? 1\d.*other.*validation"):
        next(reading)


def test_rows_without_a_text_are_left_out_of_a_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "text": row["text"] * (number % 2)} for number, row in enumerate(reviews())]
    source = written(tmp_path, rows, validation=reviews())
    with pytest.raises(ConfigError, match=r"train\.jsonl, lines 1, 3, 5: .*drop_empty"):
        next(iter(blocks_of(source, TextClassification())))
    dropping = RowSelection(drop_empty=True)
    blocks = blocks_of(source, TextClassification(), selection=dropping)
    caplog.clear()
    assert [len(block) for block in blocks] == [2, 3, 2, 3, 1]
    assert not caplog.records


def test_known_rows_have_every_label(tmp_path: Path) -> None:
    rows = Dataset.from_dict(
        {"text": ["a"] * 5000, "label": ["x"] * 4000 + ["y"] * 998 + ["z", "w"]}
    )
    known = known_rows(rows, TextClassification().columns())
    assert len(known) == 2000 + 2 + 2
    assert set(known["label"]) == {"x", "y", "z", "w"}


def test_a_stream_needs_validation_rows() -> None:
    with pytest.raises(ConfigError, match=r"needs a validation table.*has test"):
        load_tables(TextClassification(), DatasetDict(test=Dataset.from_list(reviews())))
