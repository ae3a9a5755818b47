"""Named entities: from words and tags to entities with offsets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import pytest
import tagged
import torch
from datasets import ClassLabel, Dataset, DatasetDict, List, Value
from deepsparse_pipeline import pipeline_answers
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForTokenClassification,
    TokenClassificationPipeline,
)

import sparsekit
from sparsekit.data.collator import IGNORED, padded
from sparsekit.data.conll import ConllDataset
from sparsekit.data.datasets import FileDataset
from sparsekit.data.schema import Column
from sparsekit.data.selection import ReadRows
from sparsekit.errors import ConfigError, UserError
from sparsekit.models import tiny
from sparsekit.models.loading import LoadedModel, load_for_task
from sparsekit.models.teacher import averaged_outputs
from sparsekit.onnx.export import ExportConfig
from sparsekit.onnx.export import export as export_run
from sparsekit.onnx.layers import read_layers
from sparsekit.onnx.trace import load_model
from sparsekit.onnx.write import write_graphs
from sparsekit.pipeline.file_checks import verify_files
from sparsekit.pipeline.verification import verify_run
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.answers import predict
from sparsekit.runtime.pipeline import Pipeline
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.sparseml.peer import peer_python
from sparsekit.tasks.base import Data
from sparsekit.tasks.token_classification import TokenClassification
from sparsekit.tasks.tokens import tokenize
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.trainer import SparseTrainer

TASK = TokenClassification(max_length=24)
LINEAR = "sparsekit.modifiers.optimizer.LearningRateFunction"


def files(folder: Path, train: list[Any], validation: list[Any] | None = None) -> FileDataset:
    paths = {"train": train, "validation": train if validation is None else validation}
    return FileDataset(
        data_files={n: tagged.write(folder / f"{n}.jsonl", rows) for n, rows in paths.items()}
    )


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return TASK.load(files(tmp_path, tagged.rows(96, seed=0), tagged.rows(32, seed=5)))


@pytest.fixture
def student(student_folder: str) -> LoadedModel:
    torch.manual_seed(1)
    return load_for_task(Path(student_folder), TASK, tagged.NAMES)[0]


def test_tags_are_named_with_o_first(data: Data) -> None:
    assert data.label_names == tagged.NAMES
    assert data.splits["train"]["tags"][0] == [
        tagged.NAMES.index(tag) for tag in tagged.rows(96, seed=0)[0]["tags"]
    ]


def test_the_order_of_tags_follows_a_model(data: Data) -> None:
    names = [*tagged.NAMES[1:], tagged.NAMES[0]]
    turned = TASK.with_model_labels(data, dict(enumerate(names)))
    assert turned.label_names == names
    for split, rows in data.splits.items():
        tags = [[tagged.NAMES[tag] for tag in row] for row in rows["tags"]]
        assert [[names[tag] for tag in row] for row in turned.splits[split]["tags"]] == tags
        assert turned.splits[split]["tokens"][:] == rows["tokens"][:]
    assert TASK.with_model_labels(data, dict(enumerate(tagged.NAMES))) is data


@pytest.mark.parametrize("feature", [Value("int64"), ClassLabel(names=tagged.NAMES)])
def test_tags_as_numbers(feature: Any) -> None:
    made = [
        {"tokens": row["tokens"], "tags": [tagged.NAMES.index(tag) for tag in row["tags"]]}
        for row in tagged.rows(8, seed=0)
    ]
    rows = Dataset.from_list(made).cast_column("tags", List(feature))
    names = tagged.NAMES if isinstance(feature, Value) else None
    task = TokenClassification(tag_names=names)
    loaded = task.load(ReadRows(DatasetDict(train=rows, validation=rows)))
    assert loaded.label_names == tagged.NAMES
    assert loaded.splits["train"]["tags"][:] == [row["tags"] for row in made]


def test_conll_files(tmp_path: Path, data: Data) -> None:
    def conll(rows: list[dict[str, Any]]) -> str:
        sentences = [
            "".join(f"{w} X {t}\n" for w, t in zip(row["tokens"], row["tags"], strict=True))
            for row in rows
        ]
        return "-DOCSTART- -X- O\n\n# a comment\n" + "\n".join(sentences)

    paths = {}
    for split, made in {"train": (96, 0), "validation": (32, 5)}.items():
        paths[split] = str(tmp_path / f"{split}.conll")
        Path(paths[split]).write_text(conll(tagged.rows(*made)))
    loaded = TASK.load(ConllDataset(data_files=paths))
    assert loaded.label_names == data.label_names
    for split in ("train", "validation"):
        assert loaded.splits[split].to_dict() == data.splits[split].to_dict()
    Path(paths["train"]).write_text("word O\nalone\n")
    with pytest.raises(UserError, match=r"train\.conll, line 2: 'alone' has 1 columns"):
        TASK.load(ConllDataset(data_files=paths))


GOOD = [
    {"tokens": ["the", "plot"], "tags": ["O", "B-a"]},
    {"tokens": ["dull", "."], "tags": ["B-o", "O"]},
]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 3: 2 tokens and 1 tags; give each token"),
        ({"tokens": [], "tags": []}, "line 3: column 'tokens' is empty; remove the row"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "line 3: .*a token without text; remove"),
        ({"tokens": ["x" * 500], "tags": ["O"]}, "line 3: .*500 characters, more than 256: split"),
        ({"tokens": ["a"], "tags": ["PER"]}, "line 3, column 'tags': tag 'PER' has no B- or I-"),
        ({"tokens": "a b", "tags": ["O"]}, "line 3: column 'tokens' holds 'a b', not a list"),
        ({"tokens": ["a"], "tags": [["O"]]}, "line 3: column 'tags' holds .*, not a list of texts"),
    ],
)
def test_rows_that_are_wrong(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        TASK.load(files(tmp_path, [*GOOD, row]))


def test_what_is_wrong_with_columns_and_tags(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no column words; .*set dataset\.token_column"):
        TokenClassification(token_column="words").load(files(tmp_path, GOOD))
    new = [{"tokens": ["a"], "tags": ["B-new"]}]
    with pytest.raises(ConfigError, match=r"tion\.jsonl, line 1.*'B-new' is never seen in train"):
        TASK.load(files(tmp_path, GOOD, new))
    plain = [{"tokens": ["a", "b"], "tags": ["NOUN", "VERB"]}]
    with pytest.raises(ConfigError, match=r"marks no entities .*'dataset\.metrics=\[accuracy\]'"):
        TASK.load(files(tmp_path, plain))
    assert TokenClassification(metrics=["accuracy"]).load(files(tmp_path, plain))
    with pytest.raises(ConfigError, match="'mcc' is not known for token classification"):
        TokenClassification(metrics=["mcc"]).load(files(tmp_path, GOOD))
    (tmp_path / "rows.csv").write_text("tokens,tags\na,O\n")
    csv = FileDataset(data_files={"train": str(tmp_path / "rows.csv")})
    with pytest.raises(UserError, match="a csv file, which holds no lists for tokens and tags"):
        csv.raw(TASK.columns())
    with pytest.raises(ConfigError, match="CoNLL files hold words and tags"):
        ConllDataset(data_files={}).raw([Column("text", "dataset.text_columns")])


def test_the_first_token_of_a_word_has_its_tag(student: LoadedModel) -> None:
    rows = Dataset.from_dict({"tokens": [["plot", "lifelessness"]], "tags": [[1, 3]]})
    columns = TASK.tokenize(rows, student.tokenizer)
    (labels,), (ids,) = columns["labels"], columns["input_ids"]
    assert labels[:3] == [IGNORED, 1, 3]
    assert len(labels) == len(ids) > 4
    assert set(labels[3:]) == {IGNORED}


def test_rows_of_different_lengths_become_a_batch(data: Data, student: LoadedModel) -> None:
    rows = tokenize(data, student.tokenizer, student.tokenizer_hash)["train"]
    made = rows.add_column("teacher_logits", [[[0.5] * 4] * 3] * len(rows)).select(range(8))
    batch = TASK.collator(student.tokenizer)(made.to_list())
    assert batch["labels"].shape == batch["input_ids"].shape
    assert bool((batch["labels"][batch["attention_mask"] == 0] == IGNORED).all())
    assert batch["teacher_logits"].shape == (8, 3, 4)
    assert padded([[[1.0]], [[2.0], [3.0]]], 0.0).tolist() == [[[1.0], [0.0]], [[2.0], [3.0]]]


def other_teacher(folder: Path) -> Path:
    """A tagger with a smaller vocabulary, and its names in a cycle of ours."""
    vocabulary = tiny.vocabulary(["a dull plot and a warm cast"])
    torch.manual_seed(3)
    names = [*tagged.NAMES[1:], tagged.NAMES[0]]
    config = hub_seed.small_bert(
        vocabulary,
        num_hidden_layers=1,
        intermediate_size=32,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    hub_seed.write_model(folder, BertForTokenClassification(config), vocabulary)
    return folder


def test_a_teacher_with_another_tokenizer_teaches_words(
    data: Data, student: LoadedModel, tmp_path: Path
) -> None:
    """Its logits are those of its own tokens, at the words that the student has."""
    folder = other_teacher(tmp_path / "teacher")
    taught = averaged_outputs([folder], student, data, ["validation"])["validation"]["logits"]
    rows = tokenize(data, student.tokenizer, student.tokenizer_hash)["validation"]
    assert [len(t) for t in taught] == [sum(x != IGNORED for x in r) for r in rows["labels"]]
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = data.splits["validation"]["tokens"][0]
    encoded = tokenizer(
        words, is_split_into_words=True, truncation=True, max_length=24, return_tensors="pt"
    )
    ids = encoded.word_ids()
    with torch.no_grad():
        logits = model(**encoded).logits[0].numpy()
    for word in range(len(taught[0])):
        if word not in ids:  # Cut off, as it has more tokens than the student's.
            assert np.isnan(taught[0][word]).all()
            continue
        expected = np.roll(logits[ids.index(word)], 1)
        np.testing.assert_allclose(taught[0][word], expected, atol=1e-5)


def test_teachers_whose_tokenizers_truncate_elsewhere_have_a_mean(
    data: Data, student: LoadedModel, tmp_path: Path
) -> None:
    """Of a word that one teacher lacks it is what the other says."""
    data = replace(data, task=replace(TASK, max_length=10))
    letters, same = other_teacher(tmp_path / "letters"), tmp_path / "same"
    student.model.save_pretrained(same)
    student.tokenizer.save_pretrained(same)

    def taught(*folders: Path) -> Any:
        return averaged_outputs(folders, student, data, ["validation"])["validation"]["logits"]

    lacking = 0
    for mean, one, two in zip(taught(letters, same), taught(letters), taught(same), strict=True):
        known = ~np.isnan(one).any(axis=1)
        lacking += (~known).sum()
        np.testing.assert_allclose(mean[known], (one[known] + two[known]) / 2, atol=1e-6)
        np.testing.assert_array_equal(mean[~known], two[~known])
    assert lacking


def test_a_row_without_words_is_taught_nothing(student: LoadedModel, tmp_path: Path) -> None:
    """Some tokenizers give no token to a zero-width space, so that nobody labels it."""
    rows = tagged.rows(4, seed=0)
    rows[1] = {"tokens": ["\u200b"], "tags": ["O"]}
    made = TASK.load(files(tmp_path, rows))
    folder = other_teacher(tmp_path / "teacher")
    for data in (made, replace(made, splits={k: v.select([1]) for k, v in made.splits.items()})):
        for folders in ([folder], [folder, folder]):
            taught = averaged_outputs(folders, student, data, ["train"])["train"]["logits"]
            assert [len(row) for row in taught].count(0) == 1
            assert all(row.ndim == 2 for row in taught)


def test_kd_compares_the_words_that_both_models_label() -> None:
    labels = torch.tensor([[IGNORED, 1, IGNORED, 0], [IGNORED, 2, IGNORED, IGNORED]])
    logits = torch.randn(2, 4, 3)
    nan = float("nan")
    teacher = torch.stack([logits[0, [1, 3]], logits[1, [1, 0]]])
    teacher[0, 1] = teacher[1, 1] = nan
    batch = {"labels": labels, "teacher_logits": teacher}
    same = TASK.distance("logits", {"logits": logits}, batch, 2.0)
    assert same.item() == pytest.approx(0, abs=1e-6)
    teacher[0, 0] += torch.tensor([3.0, 0, 0])
    expected = torch.nn.functional.kl_div(
        (logits[0, 1] / 2).log_softmax(-1),
        (teacher[0, 0] / 2).log_softmax(-1),
        log_target=True,
        reduction="sum",
    )
    found = TASK.distance("logits", {"logits": logits}, batch, 2.0)
    assert found.item() == pytest.approx(expected.item() * 4 / 2, rel=1e-5)
    teacher[:] = nan
    assert TASK.distance("logits", {"logits": logits}, batch, 2.0).item() == 0


def recipe(**modifiers: Any) -> dict[str, Any]:
    rate = {"_target_": LINEAR, "init_lr": 5e-3, "final_lr": 0.0}
    return {"num_epochs": 4, "modifiers": {"rate": rate, **modifiers}}


def trained(
    folder: Path, student: LoadedModel, teacher: Any, modifiers: dict[str, Any]
) -> SparseTrainer:
    """A trainer of the Python API after training, its run saved."""

    def made(rows: list[dict[str, Any]]) -> Dataset:
        names = ClassLabel(names=tagged.NAMES)
        own = Dataset.from_list(rows).cast_column("tags", List(names))
        encoded = own.map(
            lambda rows: student.tokenizer(rows["tokens"], is_split_into_words=True),
            batched=True,
        )
        tokens = TASK.tokenize(own, student.tokenizer)
        return encoded.add_column("labels", tokens["labels"])

    trainer = SparseTrainer(
        student.model,
        recipe(**modifiers),
        task=TASK,
        teacher=teacher,
        args=SparseTrainingArguments(
            output_dir=str(folder), use_cpu=True, per_device_train_batch_size=16, save_strategy="no"
        ),
        train_dataset=made(tagged.rows(160, seed=0)),
        eval_dataset=made(tagged.rows(64, seed=5)),
        processing_class=student.tokenizer,
    )
    trainer.train()
    trainer.save_model()
    return trainer


def test_the_whole_path(tmp_path: Path, student: LoadedModel) -> None:
    """Masks, distillation and int8 in training; the export is checked, verified and answers."""
    modifiers = {
        "pruning": {"_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning"},
        "distillation": {
            "_target_": "sparsekit.modifiers.distillation.logits.Distillation",
            "hardness": 0.5,
        },
        "quantization": {
            "_target_": "sparsekit.modifiers.quantization.qat.Quantization",
            "start": 2.0,
            "disable_observer_epoch": 3.5,
        },
    }
    trainer = trained(tmp_path / "run", student, "self", modifiers)
    run = RunFolder(tmp_path / "run")
    scores = run.summary["metrics"]["validation"]
    assert scores["f1"] > 0.9
    report = json.loads((run.evaluations / "validation_entities.json").read_text())
    assert set(report["entities"]) == {"aspect", "opinion"}
    exported = sparsekit.export(trainer, max_metric_drop=0.1)
    assert exported["verified"]
    card = (run.deployment / "README.md").read_text()
    assert "## Entities\n\nOn the 64 rows of the validation split" in card
    assert "| type | precision | recall | F1 | entities |" in card
    found = report["entities"]["opinion"]
    shares = " | ".join(f"{found[name]:.4f}" for name in ("precision", "recall", "f1"))
    assert f"| opinion | {shares} | {found['support']} |" in card
    assert exported["int8_matmuls"] == 13
    assert verify_run(run, run.summary)["logits"]
    assert "token labels equal" in verify_files(run, run.summary)["logits"]
    text = "The plot is truly dull , and it shows ."
    [answer] = predict(run.deployment, [text])
    assert answer["entities"]
    [own] = Pipeline(run.path, runtime="sparse", threads=1)(text)
    names = ("entity", "text")
    assert [[e[name] for name in names] for e in own] == [
        [e[name] for name in names] for e in answer["entities"]
    ]
    with pytest.raises(UserError, match="give no pairs"):
        Pipeline(run.path)((text, text))
    with pytest.raises(UserError, match="top_k is 2"):
        Pipeline(run.path)(text, top_k=2)


def test_entities_are_those_of_transformers(tmp_path: Path, student: LoadedModel) -> None:
    """A dense model: the same offsets and types in 200 texts, the scores but for rounding."""
    trained(tmp_path / "run", student, None, {})
    export_run(tmp_path / "run", ExportConfig())
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    reference = TokenClassificationPipeline(
        model=model, tokenizer=tokenizer, aggregation_strategy="first"
    )
    texts = [" ".join(row["tokens"]) for row in tagged.rows(180, seed=9)]
    texts += [f"Unbelievable! {text.title()} (it's lifelessness...)" for text in texts[:20]]
    ours = predict(tmp_path / "run" / "deployment", texts)
    count = 0
    for text, answer, theirs in zip(texts, ours, reference(texts), strict=True):
        expected = [(e["entity_group"], e["start"], e["end"]) for e in theirs]
        assert [(e["entity"], e["start"], e["end"]) for e in answer["entities"]] == expected
        np.testing.assert_allclose(
            [e["score"] for e in answer["entities"]], [e["score"] for e in theirs], atol=1e-4
        )
        assert all(e["text"] == text[e["start"] : e["end"]] for e in answer["entities"])
        count += len(expected)
    assert len(texts) == 200
    assert count > 200


def test_our_runtime_computes_all_tokens(tmp_path: Path, student: LoadedModel) -> None:
    """Also of texts longer than a tile, and of batches with padding."""
    student.model.save_pretrained(tmp_path)
    model, state = load_model(tmp_path, TASK)
    graph = tmp_path / "model.onnx"
    write_graphs(model, TASK, read_layers(model, state), graph, tmp_path / "traced.onnx")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(student.tokenizer), (3, 300), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 40:] = mask[2, 299:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    found = SparseRuntime(graph, threads=2).run({n: x.numpy() for n, x in inputs.items()})
    real = mask.numpy().astype(bool)
    np.testing.assert_allclose(found[real], expected[real], atol=1e-4)


TAGGERS = """
pipeline = Pipeline.create(
    task="token_classification",
    model_path="deployment/",
    aggregation_strategy="simple",
    sequence_length=64,
)
found = pipeline(given).predictions
print(json.dumps([[[each.entity, each.start, each.end] for each in row] for row in found]))
"""


@pytest.mark.skipif(peer_python() is None, reason="no peer environment: make peer-env")
def test_the_pipeline_of_deepsparse_finds_the_same_entities(
    tmp_path: Path, student: LoadedModel
) -> None:
    trainer = trained(tmp_path / "run", student, None, {})
    sparsekit.export(trainer, form="deepsparse", max_metric_drop=0.1)
    texts = [" ".join(row["tokens"]) for row in tagged.rows(12, seed=3)]
    run = RunFolder(tmp_path / "run")
    theirs = pipeline_answers(TAGGERS, run.deployment, tmp_path, texts)
    assert sum(map(len, theirs)) > 12
    for runtime in ("onnxruntime", "deepsparse"):
        ours = sparsekit.Pipeline(run.path, runtime=runtime)(texts)
        assert [[[e["entity"], e["start"], e["end"]] for e in row] for row in ours] == theirs
