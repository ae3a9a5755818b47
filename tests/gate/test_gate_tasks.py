"""`sparsekit gate` on tasks whose rows belong together or are answered for each token."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import pytest
import tagged
import torch
from datasets import Dataset, DatasetDict
from run_folder import restamp
from transformers import BertForQuestionAnswering, BertForTokenClassification, PreTrainedModel

from sparsekit.data.selection import ReadRows
from sparsekit.errors import UserError
from sparsekit.gate.gate import GateConfig, compare_with
from sparsekit.gate.scoring import Scoring
from sparsekit.metrics import entities
from sparsekit.models import tiny
from sparsekit.models.loading import load_for_task
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.onnx.parity import Rows
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.tasks.base import Outputs
from sparsekit.runtime.tasks.file import write_task
from sparsekit.runtime.tasks.question_answering import QuestionAnsweringAnswers
from sparsekit.tasks.base import Labels, Scores, Task
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.token_classification import TokenClassification
from sparsekit.tasks.tokens import tokenize
from sparsekit.training.record import record_evaluation

READING = QuestionAnswering(max_length=24, doc_stride=4)
TAGGING = TokenClassification(max_length=24)
MANY = GateConfig(max_drop=60, resamples=100)


def questions(count: int) -> list[dict[str, Any]]:
    """Rows in SQuAD's form whose contexts take a number of windows each that differs."""
    rows = []
    for number in range(count):
        things = [
            f"the {word} is in room {number + place} ." for place, word in enumerate("abcdef")
        ]
        context = " ".join(things[: 2 + number % 5])
        answers = {"text": [f"room {number}"], "answer_start": [context.index("room")]}
        rows.append({"question": "where is the a ?", "context": context, "answers": answers})
    return rows


def write_checkpoint(
    folder: Path, kind: type[PreTrainedModel], texts: Sequence[str], **config: Any
) -> Path:
    """A checkpoint whose answers are no matter of rounding."""
    vocabulary = tiny.vocabulary(list(texts))
    torch.manual_seed(0)
    model = kind(hub_seed.small_bert(vocabulary, **config))
    for name, weight in model.named_parameters():
        if name.split(".")[0] in ("qa_outputs", "classifier") and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.5)
    hub_seed.write_model(folder, model, vocabulary)
    return folder


def exported(
    folder: Path, task: Task, checkpoint: Path, rows: Sequence[dict[str, Any]]
) -> RunFolder:
    """A run of the checkpoint as it is, evaluated on `rows`."""
    split = Dataset.from_list(list(rows))
    data = task.load(ReadRows(DatasetDict(train=split, validation=split)))
    student = load_for_task(checkpoint, task, data.label_names)[0]
    run = RunFolder(folder)
    folder.mkdir()
    student.model.save_pretrained(run.model)
    student.tokenizer.save_pretrained(run.model)
    tokens = tokenize(data, student.tokenizer, student.tokenizer_hash)["validation"]
    record_evaluation(task, student, tokens, data.splits["validation"], "validation", run)
    kind = type(task)
    node = {"_target_": f"{kind.__module__}.{kind.__qualname__}", "max_length": task.max_length}
    if isinstance(task, QuestionAnswering):
        node["doc_stride"] = task.doc_stride
    run.write_config({"task": node, "dataset": {"metrics": list(task.metrics)}})
    export(folder, ExportConfig(verify=False))
    return run


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder, rows = tmp_path_factory.mktemp("reader"), questions(60)
    texts = [text for row in rows for text in (row["question"], row["context"])]
    checkpoint = write_checkpoint(folder / "checkpoint", BertForQuestionAnswering, texts)
    return exported(folder / "run", READING, checkpoint, rows)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder, rows = tmp_path_factory.mktemp("tagger"), tagged.rows(60, seed=0)
    names = {"id2label": dict(enumerate(tagged.NAMES))}
    texts = [" ".join(row["tokens"]) for row in rows]
    checkpoint = write_checkpoint(folder / "checkpoint", BertForTokenClassification, texts, **names)
    return exported(folder / "run", TAGGING, checkpoint, rows)


def other_reader(folder: Path, reader: RunFolder, seed: int) -> Path:
    """The reader's model with another head."""
    shutil.copytree(reader.model, folder)
    model = BertForQuestionAnswering.from_pretrained(folder)
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.qa_outputs.weight, std=0.5)
    model.save_pretrained(folder)
    return folder


def test_the_windows_of_a_question_are_one_row(reader: RunFolder, tmp_path: Path) -> None:
    windows = len(Dataset.from_parquet(str(reader.evaluation("validation"))))
    # Readers that have learned nothing give no exact answer.
    of_words = replace(MANY, metrics=["f1"])
    found = compare_with(reader, other_reader(tmp_path / "other", reader, seed=1), of_words)
    assert found["rows"] == 60 < windows
    [test] = found["metrics"]
    assert test["metric"] == "f1"
    assert test["lower"] <= test["difference"] <= test["upper"]
    assert test["lower"] < test["upper"]
    assert found["changes"] is None


def test_tags_are_compared_by_sentence(tagger: RunFolder, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tagger.model, tmp_path / "other"))
    model = BertForTokenClassification.from_pretrained(other)
    with torch.no_grad():
        model.classifier.weight.neg_()
    model.save_pretrained(other)
    found = compare_with(
        tagger, other, GateConfig(max_drop=99, resamples=100, metrics=["accuracy"])
    )
    assert found["rows"] == 60
    [test] = found["metrics"]
    assert test["lower"] < test["upper"]
    # The largest logit of the one model is the smallest of the other.
    assert found["agreement"].startswith("0 of ")
    assert found["agreement"].endswith("token labels equal")


def test_a_baseline_of_longer_windows_is_refused(reader: RunFolder, tmp_path: Path) -> None:
    other = Path(shutil.copytree(reader.model, tmp_path / "other"))
    settings = json.loads((other / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 24
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 64}))
    with pytest.raises(
        UserError,
        match=r"question \d+ of the table has \d windows or more, and 1 here, of 64 tokens: "
        rf"{other} splits the texts into other tokens .* tokenizer and dataset\.max_length$",
    ):
        compare_with(reader, other, MANY)


def test_a_baseline_of_other_tokens_is_refused(tagger: RunFolder, tmp_path: Path) -> None:
    names = {"id2label": dict(enumerate(tagged.NAMES))}
    other = write_checkpoint(tmp_path / "a", BertForTokenClassification, ["a dull plot"], **names)
    coarse = exported(tmp_path / "run", TAGGING, other, tagged.rows(60, seed=0))
    with pytest.raises(UserError, match=r"splits the texts into other tokens than the run, .*same"):
        compare_with(tagger, coarse.path, MANY)


def test_a_deployment_of_another_task_is_refused(tagger: RunFolder, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tagger.deployment, tmp_path / "other"))
    write_task(READING.answers, other)
    restamp(other)
    with pytest.raises(
        UserError, match=r"answers as QuestionAnsweringAnswers, the run is for .*of one task"
    ):
        compare_with(tagger, other, MANY)


def random_windows(questions: int, windows: int) -> tuple[list[Any], list[dict[str, Any]]]:
    """Labels of the windows of questions, and the random logits of two models."""
    words = ["the", "key", "is", "in", "room", "seven", "of", "the", "old", "house"]
    ends = [len(" ".join(words[: count + 1])) for count in range(len(words))]
    of_words = [[end - len(word), end] for word, end in zip(words, ends, strict=True)]
    spans = [[-1, -1], *of_words]
    labels = [
        {
            "index": question,
            "window": window,
            "context": " ".join(words) if window == 0 else None,
            "answers": [words[question % len(words)]],
            "spans": spans,
        }
        for question in range(questions)
        for window in range(windows)
    ]
    generator = np.random.default_rng(0)
    shape = (len(labels), len(spans))
    models = [{name: generator.normal(size=shape) for name in READING.outputs} for _ in range(2)]
    return labels, models


def test_drawn_questions_are_scored_like_their_windows() -> None:
    labels, outputs = random_windows(60, 2)
    rows = Rows(label_names=[], labels=labels, encodings=[], outputs={})
    scoring = Scoring(READING, rows, *outputs, READING)
    drawn = np.array([0, 0, *range(3, 60)])
    windows = np.concatenate([scoring.units[unit] for unit in drawn])
    copied = [{**labels[row], "index": number // 2} for number, row in enumerate(windows)]
    for metric in READING.metrics:
        expected = [
            READING.score({name: logits[windows] for name, logits in each.items()}, copied, [])
            for each in outputs
        ]
        assert scoring.scores(metric, drawn) == pytest.approx([each[metric] for each in expected])


def test_drawn_sentences_are_scored_like_all_of_theirs() -> None:
    generator = np.random.default_rng(0)
    labels = [list(generator.integers(len(tagged.NAMES), size=9)) for _ in range(60)]
    models = [{"logits": generator.normal(size=(60, 9, len(tagged.NAMES)))} for _ in range(2)]
    rows = Rows(label_names=list(tagged.NAMES), labels=labels, encodings=[], outputs={})
    scoring = Scoring(TAGGING, rows, *models, TAGGING)
    drawn = np.array([0, 0, *range(3, 60)])
    for metric in entities.METRICS:
        task = replace(TAGGING, metrics=[metric])
        expected = [
            task.score(
                {"logits": each["logits"][drawn]}, [labels[row] for row in drawn], tagged.NAMES
            )
            for each in models
        ]
        assert scoring.scores(metric, drawn) == tuple(each[metric] for each in expected)


def test_a_bootstrap_decodes_each_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate of SQuAD's 10,570 questions would take hours otherwise."""
    decoded = []
    best = QuestionAnsweringAnswers.best

    def counted(self: QuestionAnsweringAnswers, *given: Any) -> Any:
        decoded.append(given)
        return best(self, *given)

    monkeypatch.setattr(QuestionAnsweringAnswers, "best", counted)
    labels, outputs = random_windows(60, 2)
    rows = Rows(label_names=[], labels=labels, encodings=[], outputs={})
    scoring = Scoring(READING, rows, *outputs, READING)
    scoring.compare("f1", np.arange(60), 0.5, 0.05, 100, 0)
    assert len(decoded) == 2 * 60


class OwnScore(TokenClassification):
    """A task of a user's module that computes another metric."""

    def score(self, outputs: Outputs, labels: Labels, label_names: Sequence[str]) -> Scores:
        return {"rows": float(len(labels))}


def test_a_metric_of_a_users_task_is_computed_by_the_task() -> None:
    labels = [[0, 1]] * 60
    outputs = {"logits": np.zeros((60, 2, len(tagged.NAMES)))}
    rows = Rows(label_names=list(tagged.NAMES), labels=labels, encodings=[], outputs={})
    task = OwnScore(metrics=["rows"])
    assert Scoring(task, rows, outputs, outputs, task).scores("rows", np.arange(9)) == (9.0, 9.0)


def test_both_texts_of_a_pair_are_drawn_together() -> None:
    """Two rows with one number are one unit, and keep their score when they are drawn twice."""
    generator = np.random.default_rng(0)
    labels = [[float(pair), score] for pair, score in enumerate(generator.random(60)) for _ in "ab"]
    ours, theirs = (generator.normal(size=(120, 8)).astype(np.float32) for _ in range(2))
    rows = Rows(label_names=[], labels=labels, encodings=[], outputs={})
    task = Embedding(score_column="score")
    outputs = ({"sentence_embedding": ours}, {"sentence_embedding": theirs})
    scoring = Scoring(task, rows, *outputs, task)
    assert [list(unit) for unit in scoring.units] == [[2 * i, 2 * i + 1] for i in range(60)]
    found = scoring.compare("spearman", np.arange(60), 0.5, 0.05, 100, 0)
    assert found.lower < found.difference < found.upper
    # A pair that is drawn twice stays two pairs, as if the data had it twice.
    drawn = np.array([0, 0, *range(1, 60)])
    twice = np.concatenate([scoring.units[unit] for unit in drawn])
    copied = [
        [float(number), labels[2 * unit][1]] for number, unit in enumerate(drawn) for _ in "ab"
    ]
    expected = [
        task.score({name: output[twice] for name, output in each.items()}, copied, [])["spearman"]
        for each in outputs
    ]
    assert list(scoring.scores("spearman", drawn)) == expected
