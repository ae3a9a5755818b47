"""Question answering end to end: windows, answers with offsets, scores of the official script."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_seed
import launching
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict
from deepsparse_pipeline import pipeline_answers
from serving import post, serving
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertForQuestionAnswering,
    TrainingArguments,
)
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.data.selection import ReadRows, RowSelection, SelectedRows
from sparsekit.errors import ConfigError, UserError
from sparsekit.metrics import squad
from sparsekit.models import tiny
from sparsekit.models.teacher import label_order
from sparsekit.pipeline.exporting import export
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.evaluation_table import as_outputs
from sparsekit.runtime.pipeline import Pipeline
from sparsekit.runtime.tasks.question_answering import (
    CANDIDATES,
    QuestionAnsweringAnswers,
    best_spans,
)
from sparsekit.sparseml.peer import peer_python
from sparsekit.system import cpu_units
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.training.trainer import SparseTrainer

PLACES = ["the garden", "the old harbour", "the kitchen", "the library", "the station"]
THINGS = ["a key", "the map", "a lamp", "the letter", "a coat", "the book"]


def questions(count: int, unanswerable: bool = False) -> list[dict[str, Any]]:
    """Rows in SQuAD's form, whose contexts are longer than a window."""
    rows = []
    for number, (thing, place) in enumerate(itertools.product(THINGS, PLACES)):
        others = [(t, p) for t, p in itertools.product(THINGS, PLACES) if t != thing]
        facts = [f"{t} is in {p} ." for t, p in others[number % 9 : number % 9 + 5]]
        facts.insert(number % 6, f"{thing} is in {place} .")
        context = " ".join(facts)
        start = context.index(f"{thing} is in {place}") + len(f"{thing} is in ")
        answers = {"text": [place], "answer_start": [start]}
        if unanswerable and number % 3 == 0:
            answers = {"text": [], "answer_start": []}
        rows.append({"question": f"where is {thing} ?", "context": context, "answers": answers})
    return rows[:count]


@pytest.fixture(scope="module")
def reader_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    texts = [text for row in questions(30) for text in (row["question"], row["context"])]
    vocabulary = tiny.vocabulary(texts)
    torch.manual_seed(0)
    model = BertForQuestionAnswering(hub_seed.small_bert(vocabulary))
    # Larger weights than those of a new head, so that answers are not a matter of rounding.
    torch.nn.init.normal_(model.qa_outputs.weight, std=0.5)
    folder = tmp_path_factory.mktemp("models") / "reader"
    hub_seed.write_model(folder, model, vocabulary)
    return str(folder)


def run_on_questions(folder: Path, reader: str, *words: str, unanswerable: bool = False) -> Path:
    """A completed run of half a reader's weights on 30 questions, as `words` say."""
    lines = "".join(json.dumps(row) + "\n" for row in questions(30, unanswerable))
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    launching.run_here(
        folder / "run",
        "task=question_answering",
        "dataset=json",
        *(f"dataset.data_files.{s}={folder}/{s}.jsonl" for s in ("train", "validation")),
        "dataset.max_length=32",
        "dataset.doc_stride=8",
        f"dataset.unanswerable={unanswerable}",
        f"student.checkpoint={reader}",
        "student.sparsity=0.5",
        "training=smoke",
        *words,
    )
    return folder / "run"


@pytest.fixture(scope="module")
def run(reader_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_on_questions(
        tmp_path_factory.mktemp("answers"),
        reader_folder,
        "teacher=checkpoint",
        f"teacher.checkpoint={reader_folder}",
        "training.max_steps=8",
        "training.eval_strategy=epoch",
        "recipe.num_epochs=2",
        "recipe.qat_epochs=1",
        "export.max_metric_drop=0.1",
        "runtime=onnxruntime",
        "runtime.requests=2",
        "runtime.batches=1",
        unanswerable=True,
    )


def test_a_run_is_scored_exported_and_timed(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert set(summary["metrics"]["validation"]) == {"exact_match", "f1"}
    assert set(summary["teacher"]["validation"]) == {"exact_match", "f1"}
    assert summary["export"]["verified"] is True
    assert summary["export"]["int8_matmuls"] > 0
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("eval_f1" in event for event in events)
    assert any("kd_loss" in event for event in events)


def test_verify_scores_the_recorded_windows(run: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(run)])
    assert result.exit_code == 0, result.output


def reference(
    model: Any, tokenizer: Any, question: str, context: str
) -> tuple[str, float, int, int]:
    """The best answer of all windows by definition, span by span, with transformers alone."""
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=32,
        stride=8,
        return_overflowing_tokens=True,
        padding=True,
        return_tensors="pt",
    )
    encoded.pop("overflow_to_sample_mapping")
    with torch.no_grad():
        output = model(**encoded)
    totals: dict[str, list[Any]] = {}
    nothing = 1.0
    for window in range(len(encoded["input_ids"])):
        real = int(encoded["attention_mask"][window].sum())
        sides = encoded.sequence_ids(window)
        left_out = torch.tensor([side != 1 for side in sides[:real]])
        left_out[0] = False  # no answer
        starts, ends = (
            logits[window, :real].double().masked_fill(left_out, -10_000.0).softmax(0)
            for logits in (output.start_logits, output.end_logits)
        )
        nothing = min(nothing, float(starts[0] * ends[0]))
        spans = []
        for first in range(real):
            for last in range(first, min(first + 15, real)):
                spans.append((float(starts[first] * ends[last]), first, last))
        in_context = [
            (p if sides[first] == sides[last] == 1 else 0, first, last) for p, first, last in spans
        ]
        for p, first, last in sorted(in_context, reverse=True)[:12]:
            if p == 0:
                continue
            begin = encoded.word_to_chars(window, encoded.token_to_word(window, first), 1)[0]
            end = encoded.word_to_chars(window, encoded.token_to_word(window, last), 1)[1]
            text = context[begin:end]
            totals.setdefault(text.lower(), [0.0, text, begin, end])[0] += p
    totals[""] = [nothing, "", 0, 0]
    score, text, begin, end = max(totals.values(), key=lambda found: found[0])
    return text, score, begin, end


def test_answers_are_those_of_transformers_span_by_span(run: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForQuestionAnswering.from_pretrained(run / "model").eval()
    answers = QuestionAnsweringAnswers(doc_stride=8, unanswerable=True)
    rows = [(row["question"], row["context"]) for row in questions(30)]
    encoder = TextEncoder(run / "deployment")
    windows = answers.encode(encoder, [q for q, _ in rows], [c for _, c in rows])
    assert len(windows) > 2 * len(rows)
    found = answered(model, answers, run, rows)
    for (question, context), answer in zip(rows, found, strict=True):
        text, score, begin, end = reference(model, tokenizer, question, context)
        assert (answer["answer"], answer["start"], answer["end"]) == (text, begin, end)
        assert answer["score"] == pytest.approx(score, rel=1e-4)
        assert context[answer["start"] : answer["end"]] == answer["answer"]


def test_a_question_without_room_is_named(run: Path, tmp_path: Path) -> None:
    """A model reads windows of 32 tokens here, of which two share 8."""
    pipeline, context = Pipeline(run), " ".join(["the cast is warm ."] * 20)
    row = next(length for length in range(1, 40) if not room_for(run, length, context))
    question = " ".join(["the"] * row)
    message = rf"question 2 of 2 has {row} tokens or more; .* there is room for {row - 1} beside"
    with pytest.raises(UserError, match=message):
        pipeline([("who", context), (question, context)])
    # All of a short context is read at once.
    assert pipeline([(question, "a cast")])
    (tmp_path / "rows.csv").write_text(f"question,context\nwho,{context}\n{question},{context}\n")
    done = CliRunner().invoke(app, ["predict", str(run), str(tmp_path / "rows.csv")])
    assert done.exit_code == 1
    assert "rows.csv, line 3: question 2 of 2 has" in done.stderr


def room_for(run: Path, words: int, context: str) -> bool:
    try:
        TextEncoder(run / "deployment").encode_windows([" ".join(["the"] * words)], [context], 8)
    except UserError:
        return False
    return True


def test_threads_share_an_encoder(run: Path) -> None:
    """Windows and whole pairs are cut by other settings of the tokenizer."""
    encoder = TextEncoder(run / "deployment")
    rows = [(row["question"], row["context"]) for row in questions(20)]

    def windows(row: tuple[str, str]) -> list[list[int]]:
        return [each.ids for each in encoder.encode_windows([row[0]], [row[1]], 8)[0]]

    def whole(row: tuple[str, str]) -> list[int]:
        [encoding] = encoder.encode([row[0]], [row[1]])
        ids: list[int] = encoding.ids
        return ids

    alone = [(windows(row), whole(row)) for row in rows]
    with ThreadPoolExecutor(4) as pool:
        cut = pool.map(windows, rows * 20)
        for index, (found, other) in enumerate(zip(cut, pool.map(whole, rows * 20), strict=True)):
            assert (found, other) == alone[index % len(rows)]


# Reads pairs as JSON, prints the answers of the pipeline of transformers 4.
PIPELINE = """
import json, sys
from transformers import pipeline
folder, length = sys.argv[1], int(sys.argv[2])
answer = pipeline("question-answering", model=folder, tokenizer=folder, device=-1)
found = [
    answer(question=question, context=context, max_seq_len=length, doc_stride=8)
    for question, context in json.load(sys.stdin)
]
print(json.dumps(found))
"""


def answered(
    model: Any, answers: QuestionAnsweringAnswers, run: Path, rows: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    """The answers to `rows` from the outputs of a torch model."""
    encoder = TextEncoder(run / "deployment")
    encodings = answers.encode(encoder, [q for q, _ in rows], [c for _, c in rows])
    outputs: dict[str, list[Any]] = {"start_logits": [], "end_logits": []}
    for encoding in encodings:
        batch = {k: torch.from_numpy(v) for k, v in encoder.batch([encoding]).items()}
        with torch.no_grad():
            output = model(**batch)
        for name in outputs:
            outputs[name].append(output[name][0].numpy())
    return answers.answers(encoder, rows, encodings, outputs)


@pytest.fixture(scope="module")
def float_run(reader_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader in float32, whose deployment computes what its model computes."""
    return run_on_questions(
        tmp_path_factory.mktemp("float"),
        reader_folder,
        "teacher=none",
        "recipe=dense",
        "training.max_steps=1",
        "recipe.num_epochs=1",
        "runtime=none",
    )


@pytest.fixture(scope="module")
def asked() -> list[tuple[str, str]]:
    """200 questions. No word occurs twice in a context: the older transformers of the peer
    environment does not add up spans of equal text."""
    words = sorted({word for text in (*PLACES, *THINGS) for word in text.split()})
    generator = random.Random(0)
    return [
        (f"where is {thing} ?", " ".join(generator.sample(words, generator.randrange(3, 14))))
        for thing in itertools.islice(itertools.cycle(THINGS), 200)
    ]


@pytest.fixture(scope="module")
def theirs(float_run: Path, asked: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """What the pipeline of transformers answers; its last version with one is the peer's."""
    if peer_python() is None:
        pytest.skip("no peer environment: make peer-env")
    done = subprocess.run(
        [str(peer_python()), "-c", PIPELINE, str(float_run / "model"), "32"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("runtime", ["onnxruntime", "sparse", "openvino"])
def test_answers_are_those_of_the_pipeline_of_transformers(
    runtime: str, float_run: Path, asked: list[tuple[str, str]], theirs: list[dict[str, Any]]
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="pip install 'sparsekit[openvino]'")
    ours = Pipeline(float_run, runtime=runtime)(asked)
    equal = [
        one["answer"] == other["answer"] and one["start"] == other["start"]
        for one, other in zip(ours, theirs, strict=True)
    ]
    # OpenVINO multiplies in bf16, of 8 bits, on CPUs that have AMX: of two answers that are nearly
    # as probable either may win.
    in_bf16 = runtime == "openvino" and (cpu_units() or {}).get("amx_bf16")
    assert np.mean(equal) >= (0.9 if in_bf16 else 1.0)
    for one, other, same in zip(ours, theirs, equal, strict=True):
        if same:
            assert one["end"] == other["end"]
            assert one["score"] == pytest.approx(other["score"], rel=0.1 if in_bf16 else 1e-3)


@pytest.fixture(scope="module")
def deepsparse_run(float_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same reader, exported for DeepSparse."""
    if peer_python() is None:
        pytest.skip("no peer environment: make peer-env")
    run = shutil.copytree(float_run, tmp_path_factory.mktemp("deepsparse") / "run")
    export(run, form="deepsparse")
    return run


def test_deepsparse_answers_as_onnxruntime_does(
    deepsparse_run: Path, asked: list[tuple[str, str]]
) -> None:
    """Both outputs arrive, without those of the tokens that fill the engine's length."""
    ours = Pipeline(deepsparse_run, runtime="deepsparse")(asked[:40])
    for one, other in zip(ours, Pipeline(deepsparse_run)(asked[:40]), strict=True):
        assert (one["answer"], one["start"]) == (other["answer"], other["start"])
        assert one["score"] == pytest.approx(other["score"], rel=1e-3)


READERS = """
pipeline = Pipeline.create(
    task="question_answering", model_path="deployment/", sequence_length=32, doc_stride=8
)
found = [pipeline(question=question, context=context) for question, context in given]
print(json.dumps([[each.answer, each.start, each.end] for each in found]))
"""


def test_the_pipeline_of_deepsparse_reads_the_deployment(
    deepsparse_run: Path, asked: list[tuple[str, str]], tmp_path: Path
) -> None:
    theirs = pipeline_answers(READERS, deepsparse_run / "deployment", tmp_path, asked[:20])
    expected = Pipeline(deepsparse_run)(asked[:20])
    assert theirs == [[each["answer"], each["start"], each["end"]] for each in expected]


def test_our_own_runtime_scores_an_int8_reader_as_onnxruntime_does(run: Path) -> None:
    rows = [(row["question"], row["context"]) for row in questions(8)]
    ours, theirs = Pipeline(run, runtime="sparse")(rows), Pipeline(run)(rows)
    for one, other in zip(ours, theirs, strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=0.2)


def test_predict_needs_pairs_and_prints_an_answer(run: Path) -> None:
    row = questions(1)[0]
    alone = CliRunner().invoke(app, ["predict", str(run), row["question"]])
    assert alone.exit_code != 0
    texts = [row["question"], row["context"]]
    result = CliRunner().invoke(app, ["predict", str(run), "--pairs", "--json", *texts])
    assert result.exit_code == 0, result.output
    [answer] = json.loads(result.output)
    assert answer.keys() >= {"answer", "score", "start", "end"}
    assert Pipeline(run)([tuple(texts)])[0]["answer"] == answer["answer"]
    named = dict(zip(("question", "context"), texts, strict=True))
    assert Pipeline(run)(named)[0]["answer"] == answer["answer"]


def test_the_server_gives_the_pipelines_answers(run: Path) -> None:
    rows = questions(3)
    pairs = [(row["question"], row["context"]) for row in rows]
    expected = Pipeline(run)(pairs)
    with serving([str(run)]) as port:
        for row, answer in zip(rows, expected, strict=True):
            body = {"question": row["question"], "context": row["context"]}
            assert post(port, "/predict", body)[1]["answer"] == answer["answer"]
        batch = post(port, "/predict", {"inputs": [list(pair) for pair in pairs]})[1]
        assert [each["answer"] for [each] in batch] == [each["answer"] for each in expected]
        assert "pairs of texts" in post(port, "/predict", {"inputs": "a"})[1]["error"]


@pytest.mark.parametrize(
    ("predicted", "true", "exact", "f1"),
    [
        ("The Panthers", ["panthers"], 1.0, 1.0),
        ("308 points", ["308"], 0.0, 2 / 3),
        ("a b c", ["b c d", "c"], 0.0, 0.8),
        ("", [], 1.0, 1.0),
        ("something", [], 0.0, 0.0),
        ("", ["something"], 0.0, 0.0),
        ("U.S.", ["us"], 1.0, 1.0),
        ("well-known", ["well known"], 0.0, 0.0),
        ("the", ["the"], 1.0, 1.0),
    ],
)
def test_scores_of_the_official_script(
    predicted: str, true: list[str], exact: float, f1: float
) -> None:
    assert squad.values(predicted, true) == {"exact_match": exact, "f1": pytest.approx(f1)}


@pytest.mark.parametrize(("tokens", "longest"), [(1, 1), (1, 15), (7, 15), (40, 1), (40, 15)])
def test_the_best_spans_of_all(tokens: int, longest: int) -> None:
    generator = np.random.default_rng(tokens)
    starts, ends = generator.dirichlet([0.3] * tokens, size=2)
    spans = [
        (first, last, starts[first] * ends[last])
        for first in range(tokens)
        for last in range(first, min(first + longest, tokens))
    ]
    best = sorted(spans, key=lambda span: -span[2])[:CANDIDATES]
    assert best_spans(starts, ends, longest) == best


def test_improbable_spans_are_left_out() -> None:
    assert best_spans(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 3) == [(1, 1, 1.0)]


class Broken(str):
    """The text of a cell that is no JSON."""


def rows_of(answers: Any, context: str = "the key is in the garden .") -> SelectedRows:
    text = answers if isinstance(answers, Broken) else json.dumps(answers)
    rows = Dataset.from_dict(
        {"question": ["where is it ?"], "context": [context], "answers": [text]}
    )
    return SelectedRows(ReadRows(DatasetDict(train=rows, validation=rows)), RowSelection())


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"text": ["garden"], "answer_start": [17]}, "is not at character 17 of the context"),
        ({"text": [], "answer_start": []}, "the question has no answer"),
        ({"text": ["garden"]}, "not an object with the lists text and answer_start"),
        (None, "not an object with the lists"),
        (
            {"text": [None], "answer_start": [0]},
            "are {'text': [None], 'answer_start': [0]}, not an",
        ),
        ({"text": [5], "answer_start": [0]}, "of one length, of texts and of whole"),
        ({"text": ["garden"], "answer_start": [None]}, "of whole numbers from 0"),
        ({"text": ["garden"], "answer_start": ["17"]}, "of whole numbers from 0"),
        ({"text": ["garden"], "answer_start": [17.5]}, "of whole numbers from 0"),
        ({"text": ["garden"], "answer_start": [-8]}, "of whole numbers from 0"),
        ({"text": ["the"], "answer_start": [False]}, "of whole numbers from 0"),
        ({"text": {"a": 1}, "answer_start": [0]}, "not an object with the lists"),
        (Broken('{"text": ["garden"], "answer_start": [17]'), 'the answers are \'{"text": ['),
        (Broken("[" * 100_000), "the answers are '[[["),
        (Broken("1" * 5000), "the answers are '111"),
    ],
)
def test_mistakes_in_answers_are_named(answers: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match="row 0") as error:
        QuestionAnswering(max_length=64, doc_stride=8).load(rows_of(answers))
    assert problem in str(error.value)


def test_a_question_that_fills_the_row_is_named(reader_folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reader_folder)
    task = QuestionAnswering(max_length=20, doc_stride=8)
    rows = task.unlabelled([["where is the key ? " * 5], ["the key is in the garden ."]])
    with pytest.raises(UserError, match=r"question 0 .* has 25 tokens.*shorten it"):
        task.tokenize(rows, tokenizer)


def test_the_target_is_the_answer_in_windows_that_hold_it(reader_folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reader_folder)
    task = QuestionAnswering(max_length=32, doc_stride=8)
    row = questions(4)[3]
    rows = Dataset.from_dict(
        {
            "text": [row["question"]],
            "text_pair": [row["context"]],
            "answers": [row["answers"]["text"]],
            "starts": [row["answers"]["answer_start"]],
            "index": [0],
        }
    )
    columns = task.tokenize(rows, tokenizer)
    held = [label for label in columns["labels"] if label["first"]]
    assert len(columns["labels"]) > len(held) > 0
    for label in held:
        begin, end = label["spans"][label["first"]][0], label["spans"][label["last"]][1]
        assert row["context"][begin:end] == row["answers"]["text"][0]


@pytest.fixture(scope="module")
def windows(reader_folder: str) -> Dataset:
    """Rows of three questions on contexts of several windows."""
    rows = questions(3)
    source = Dataset.from_dict(
        {
            "text": [row["question"] for row in rows],
            "text_pair": [row["context"] for row in rows],
            "answers": [row["answers"]["text"] for row in rows],
            "starts": [row["answers"]["answer_start"] for row in rows],
            "index": list(range(len(rows))),
        }
    )
    task = QuestionAnswering(max_length=32, doc_stride=8)
    return Dataset.from_dict(task.tokenize(source, AutoTokenizer.from_pretrained(reader_folder)))


def outputs_at_answers(windows: Dataset) -> dict[str, list[np.ndarray]]:
    """Logits that are largest at the first and the last token of the true answer."""
    places = {"start_logits": "first", "end_logits": "last"}
    return {
        name: [
            20.0 * (np.arange(row["length"]) == row["labels"][key]).astype(np.float32)
            for row in windows
        ]
        for name, key in places.items()
    }


def test_a_context_is_kept_once_and_answers_in_any_order_of_windows(windows: Dataset) -> None:
    """One in each window was memory quadratic in the context's length."""
    task, labels = QuestionAnswering(max_length=32, doc_stride=8), list(windows["labels"])
    contexts = [row["context"] for row in questions(3)]
    assert len(labels) > 2 * len(contexts)
    assert [label["context"] for label in labels if label["context"] is not None] == contexts
    outputs = outputs_at_answers(windows)
    backwards = {name: output[::-1] for name, output in outputs.items()}
    perfect = {"exact_match": 1.0, "f1": 1.0}
    assert task.score(outputs, labels, []) == perfect
    assert task.score(backwards, labels[::-1], []) == perfect
    rest = [row for row, label in enumerate(labels) if label["window"]]
    part = {name: [output[row] for row in rest] for name, output in outputs.items()}
    with pytest.raises(UserError, match=r"window 1 of question 0 .* keep all windows"):
        task.score(part, [labels[row] for row in rest], [])


def test_an_evaluation_table_has_a_context_once_and_gives_its_windows(
    run: Path, windows: Dataset
) -> None:
    task, shuffled = QuestionAnswering(max_length=32, doc_stride=8), windows.shuffle(seed=0)
    table = task.evaluation_table(shuffled, shuffled, outputs_at_answers(shuffled))
    contexts = [row["context"] for row in questions(3)]
    assert [context for context in table["text_pair"] if context is not None] == contexts
    columns = {name: table[name][:] for name in table.column_names}
    found = task.score(as_outputs(columns, task.outputs, True), columns["label"], [])
    assert found == {"exact_match": 1.0, "f1": 1.0}
    encoder = TextEncoder(run / "deployment")
    encoded = [encoding.ids for encoding in task.answers.encode_table(encoder, columns)]
    assert encoded == windows["input_ids"][:]
    # Tables of earlier versions have the context in each row.
    columns["text_pair"] = [contexts[label["index"]] for label in table["label"]]
    assert [each.ids for each in task.answers.encode_table(encoder, columns)] == encoded


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_distance_of_windows_leaves_out_their_padding(
    reader_folder: str, temperature: float
) -> None:
    task, lengths = QuestionAnswering(), (5, 3)
    torch.manual_seed(0)
    taught = [torch.randn(length) for length in lengths]
    collate = task.collator(AutoTokenizer.from_pretrained(reader_folder))
    batch = collate(
        [{"input_ids": [5] * len(each), "teacher_start_logits": each.numpy()} for each in taught]
    )
    assert batch["teacher_start_logits"][1].softmax(0)[3:].tolist() == [0, 0]
    # As where another process has a longer row: the teacher's columns are not padded further.
    batch["attention_mask"] = F.pad(batch["attention_mask"], (0, 2))
    student = torch.randn(2, 7, requires_grad=True)
    outputs = {"start_logits": student}
    found = task.distance("start_logits", outputs, batch, temperature)
    each = []
    for row, teacher in zip(student, taught, strict=True):
        p, q = ((logits / temperature).softmax(0) for logits in (teacher, row[: len(teacher)]))
        each.append(temperature**2 * (p * (p / q).log()).sum())
    torch.testing.assert_close(found, torch.stack(each).mean())
    found.backward()
    assert student.grad is not None
    assert (student.grad != 0).sum(1).tolist() == list(lengths)


def test_a_classifier_teaches_no_answers(teacher_folder: str) -> None:
    with pytest.raises(UserError, match="answers no questions; choose a checkpoint"):
        label_order(Path(teacher_folder), QuestionAnswering(), teacher_folder, [])


def test_a_teacher_of_other_windows_is_refused() -> None:
    rows = Dataset.from_dict({"length": [3, 4]})
    with pytest.raises(UserError, match="another tokenizer than the student"):
        QuestionAnswering().taught_output(rows, [np.zeros(3), np.zeros(5)])


RECIPE = """
num_epochs: 1
modifiers:
  learning_rate:
    _target_: sparsekit.modifiers.optimizer.LearningRateFunction
    init_lr: 0.001
    final_lr: 0.0
"""


def test_trainer_of_the_python_api(reader_folder: str, tmp_path: Path) -> None:
    """Windows shorter than the tokenizer allows are those of the export and of its answers."""
    tokenizer = AutoTokenizer.from_pretrained(reader_folder)
    model = AutoModelForQuestionAnswering.from_pretrained(reader_folder)
    task = QuestionAnswering(max_length=32, doc_stride=8, unanswerable=True)
    assert tokenizer.model_max_length > 32
    raw = questions(30)
    rows = task.tokenized(Dataset.from_list(raw), tokenizer)
    assert len(rows) > len(raw) and max(rows["length"]) == 32
    trainer = SparseTrainer(
        model,
        RECIPE,
        task=task,
        args=TrainingArguments(
            str(tmp_path / "run"), use_cpu=True, report_to="none", dataloader_pin_memory=False
        ),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    assert export(trainer, tmp_path / "deployment")["verified"] is True
    pipeline = Pipeline(tmp_path / "deployment")
    model.eval()
    for row in raw[:4]:
        [answer] = pipeline([(row["question"], row["context"])])
        text, score, start, end = reference(model, tokenizer, row["question"], row["context"])
        assert (answer["answer"], answer["start"], answer["end"]) == (text, start, end)
        assert answer["score"] == pytest.approx(score, abs=1e-4)


def test_the_trainer_says_how_windows_are_made(reader_folder: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reader_folder)
    task = QuestionAnswering(max_length=32, doc_stride=8)
    raw = Dataset.from_list(questions(4))
    positions = {"start_positions": [1] * 4, "end_positions": [1] * 4}
    encoded = Dataset.from_dict({**tokenizer(raw["question"][:]), **positions})
    others = replace(task, max_length=40).tokenized(raw, tokenizer)
    for rows, problem in [
        (raw, r"train_dataset=task\.tokenized\(data, tokenizer\)"),
        (encoded, r"train_dataset=task\.tokenized\(data, tokenizer\)"),
        (others, r"windows of 40 tokens, and the task's max_length is 32"),
    ]:
        with pytest.raises(UserError, match=problem):
            SparseTrainer(
                AutoModelForQuestionAnswering.from_pretrained(reader_folder),
                RECIPE,
                task=task,
                args=TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none"),
                train_dataset=rows,
                processing_class=tokenizer,
            )
    with pytest.raises(
        ConfigError, match="has no column answers; it has question, context; set answers_column"
    ):
        task.tokenized(raw.remove_columns("answers"), tokenizer)
