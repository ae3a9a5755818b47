"""Masked language modeling end to end: hidden words, a teacher, zeros, and transfer from it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import hub_seed
import launching
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    TrainingArguments,
)
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.data.collator import IGNORED
from sparsekit.data.selection import ReadRows, RowSelection, SelectedRows
from sparsekit.errors import ConfigError, UserError
from sparsekit.models import tiny
from sparsekit.models.kept_outputs import keep, read_kept
from sparsekit.models.predict import predict_outputs
from sparsekit.models.pruning import prune
from sparsekit.models.teacher import label_order
from sparsekit.tasks.distances import kl_divergence
from sparsekit.tasks.masked_lm import OTHERS, WORDS, MaskedLM, likely_and_others, summary
from sparsekit.training.trainer import SparseTrainer

TEXTS = [str(row["text"]) for row in hub_seed.reviews(96, seed=0)]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dense masked language model whose vocabulary splits some words."""
    # The special tokens, the letters and a few words: most words are several tokens.
    vocabulary = tiny.vocabulary(TEXTS)[:60]
    torch.manual_seed(0)
    model = BertForMaskedLM(hub_seed.small_bert(vocabulary))
    folder = tmp_path_factory.mktemp("models") / "upstream"
    hub_seed.write_model(folder, model, vocabulary)
    return str(folder)


def files(folder: Path) -> list[str]:
    """Text files of one column, without labels, and the overrides that name them."""
    for split, texts in (("train", TEXTS[:64]), ("validation", TEXTS[64:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return [
        "dataset=json",
        *(f"dataset.data_files.{s}={folder}/{s}.jsonl" for s in ("train", "validation")),
        "training=smoke",
        "training.max_steps=4",
        "recipe=pruned90",
        "recipe.num_epochs=1",
    ]


@pytest.fixture(scope="module")
def run(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked_lm")
    launching.run_here(
        folder / "run",
        "task=masked_lm",
        *files(folder),
        f"student.checkpoint={upstream}",
        "student.sparsity=0.8",
        "teacher=checkpoint",
        f"teacher.checkpoint={upstream}",
        "task.whole_words=true",
        "task.teacher_words=8",
        "export=none",
        "runtime=none",
    )
    return folder / "run"


def loss_by_definition(folder: Path, table: Dataset, tokenizer_folder: Path) -> float:
    """The mean cross entropy of the recorded labels, with transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    task = MaskedLM(whole_words=True, teacher_words=8)
    rows = task.tokenize(Dataset.from_dict({"text": table["text"]}), tokenizer)
    total, count = 0.0, 0
    for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        total += float(F.cross_entropy(logits, torch.tensor(labels), reduction="sum"))
        count += sum(label != IGNORED for label in labels)
    return total / count


def test_a_run_needs_no_labels_and_scores_hidden_words(run: Path) -> None:
    summary_ = json.loads((run / "summary.json").read_text())
    assert summary_["status"] == "completed"
    scores = summary_["metrics"]["validation"]
    assert scores.keys() == {"loss", "perplexity"} == summary_["teacher"]["validation"].keys()
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    assert summary_["sparsity"]["overall"] == pytest.approx(0.8, abs=0.01)
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("kd_loss" in event for event in events)
    table = Dataset.from_parquet(str(run / "evaluation/validation.parquet"))
    expected = loss_by_definition(run / "model", table, run / "model")
    assert scores["loss"] == pytest.approx(expected, rel=1e-5)


def test_another_task_starts_from_it_with_its_zeros(run: Path, tmp_path: Path) -> None:
    csv = tmp_path / "rows.csv"
    lines = [f'"{row["text"]}",{row["label"]}' for row in hub_seed.reviews(48, seed=1)]
    csv.write_text("text,label\n" + "\n".join(lines) + "\n")
    summary_ = launching.run_here(
        tmp_path / "transfer",
        "dataset=csv",
        *(f"dataset.data_files.{split}={csv}" for split in ("train", "validation")),
        "training=smoke",
        "training.max_steps=2",
        "recipe=pruned90",
        "recipe.num_epochs=1",
        f"student.checkpoint={run}/model",
        "export=none",
        "runtime=none",
    )
    assert summary_["status"] == "completed"
    before, after = (load_file(f / "model/model.safetensors") for f in (run, tmp_path / "transfer"))
    layers = [name for name in before if ".layer." in name and before[name].ndim == 2]
    assert len(layers) == 12
    for name in layers:
        assert torch.equal(before[name] == 0, after[name] == 0)
    assert any(not torch.equal(before[name], after[name]) for name in layers)


def test_an_export_is_refused_before_training(upstream: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"makes a checkpoint, not a deployment: train without"):
        launching.run_here(
            tmp_path / "run",
            "task=masked_lm",
            *files(tmp_path),
            f"student.checkpoint={upstream}",
        )


def test_a_finished_run_is_not_exported(run: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(run)])
    assert result.exit_code == 1
    assert "makes a checkpoint, not a deployment" in result.output


def tokens(upstream: str, **settings: object) -> tuple[list[list[int]], list[list[int]], object]:
    tokenizer = AutoTokenizer.from_pretrained(upstream)
    rows = MaskedLM(**settings).tokenize(Dataset.from_dict({"text": TEXTS}), tokenizer)
    return rows["input_ids"], rows["labels"], tokenizer


def test_the_same_share_of_every_text_is_hidden_each_time_alike(upstream: str) -> None:
    ids, labels, tokenizer = tokens(upstream, mask_probability=0.3)
    assert tokens(upstream, mask_probability=0.3)[:2] == (ids, labels)
    special = set(tokenizer.all_special_ids)
    kept = masked = hidden = 0
    for text, row, row_labels in zip(TEXTS, ids, labels, strict=True):
        true = tokenizer(text)["input_ids"]
        for token, label, original in zip(row, row_labels, true, strict=True):
            if label == IGNORED:
                assert token == original
                continue
            assert label == original and label not in special
            hidden += 1
            masked += token == tokenizer.mask_token_id
            kept += token == original
        count = sum(label != IGNORED for label in row_labels)
        assert count == max(1, round(0.3 * (len(true) - 2)))
    assert 0.7 < masked / hidden < 0.9
    assert 0.05 < kept / hidden < 0.2


def test_whole_words_are_hidden_together(upstream: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(upstream)
    split_words = 0
    for whole in (True, False):
        _, labels, _ = tokens(upstream, whole_words=whole, mask_probability=0.3)
        broken = 0
        for text, row in zip(TEXTS, labels, strict=True):
            words: dict[int, set[bool]] = {}
            for word, label in zip(tokenizer(text).word_ids(0), row, strict=True):
                if word is not None:
                    words.setdefault(word, set()).add(label != IGNORED)
            broken += sum(len(states) > 1 for states in words.values())
        split_words = broken
        assert (broken == 0) is whole
    assert split_words > 0


def test_each_masking_hides_other_words(upstream: str) -> None:
    ids, labels, _ = tokens(upstream, maskings=3)
    assert len(ids) == 3 * len(TEXTS)
    assert sum(labels[i] != labels[i + 1] for i in range(0, len(ids), 3)) > len(TEXTS) / 2


def test_a_summary_has_the_exact_loss_and_the_likely_words() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 50), torch.randint(50, (5,))
    found = summary(logits, labels, words=4)
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(-found[:, 1], expected)
    probabilities = logits.softmax(-1)
    top = probabilities.topk(4)
    torch.testing.assert_close(found[:, OTHERS : WORDS + 4].softmax(-1)[:, 1:], top.values)
    assert torch.equal(found[:, WORDS + 4 :].long(), top.indices)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_distance_of_all_words_is_that_of_the_whole_distribution(temperature: float) -> None:
    torch.manual_seed(0)
    task = MaskedLM(teacher_words=100)  # all but one
    student, teacher = torch.randn(2, 3, 20, requires_grad=True), torch.randn(2, 3, 20)
    labels = torch.tensor([[IGNORED, 4, 5], [7, IGNORED, IGNORED]])
    hidden = labels != IGNORED
    kept = summary(teacher[hidden], labels[hidden], 100)
    padded = torch.full((2, 2, kept.shape[1]), float("nan"))
    padded[0], padded[1, 0] = kept[:2], kept[2]
    batch = {"labels": labels, "teacher_logits": padded}
    found = task.distance("logits", {"logits": student}, batch, temperature)
    expected = kl_divergence(student[hidden], teacher[hidden], temperature)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert student.grad is not None and student.grad.isfinite().all()


def test_others_are_added_up() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    found = likely_and_others(logits, torch.tensor([[3]])).softmax(-1)
    torch.testing.assert_close(found[0, 1], logits.softmax(-1)[0, 3])


def test_the_perplexity_of_a_finite_loss_beyond_floats_is_infinite() -> None:
    summaries = [np.array([[3.0, -800.0, 0.0, 1.0, 3.0]], np.float32)]
    found = MaskedLM().score({"logits": summaries}, [[IGNORED, 3]], [])
    assert found == {"loss": 800, "perplexity": math.inf}


def source(texts: list[str]) -> SelectedRows:
    rows = Dataset.from_dict({"text": texts})
    return SelectedRows(ReadRows(DatasetDict(train=rows, validation=rows)), RowSelection())


def test_several_teachers_are_refused() -> None:
    with pytest.raises(UserError, match=r"names 2 teachers.*name one"):
        MaskedLM().mean_output([np.zeros((1, 1, 4)), np.zeros((1, 1, 4))])


def test_a_teacher_with_another_vocabulary_is_refused() -> None:
    rows = Dataset.from_dict({"labels": [[IGNORED, 3, 4]]})
    kept = [np.array([[3.0, 0.0, 0.0], [5.0, 0.0, 0.0]])]
    with pytest.raises(UserError, match="another tokenizer than the student"):
        MaskedLM().taught_output(rows, kept)


def test_a_text_without_hidden_tokens_is_taught_nothing(tmp_path: Path) -> None:
    """Such as a zero-width space, to which the tokenizer gives no token."""
    task = MaskedLM(teacher_words=1)
    rows = Dataset.from_dict({"labels": [[IGNORED, 4], [IGNORED, IGNORED]]})
    summaries = [np.full((2, 5), row[-1], np.float32) for row in rows["labels"]]
    for one in (rows, rows.select([1])):
        keep(task, one, {"logits": summaries[-len(one) :]}, None, tmp_path / str(len(one)))
        stored = read_kept(task, Dataset.load_from_disk(str(tmp_path / str(len(one)))))
        assert len(task.taught_output(one, stored["logits"])[-1]) == 0


def test_a_classifier_teaches_no_words(teacher_folder: str) -> None:
    with pytest.raises(UserError, match="predicts no hidden words; choose a checkpoint"):
        label_order(Path(teacher_folder), MaskedLM(), teacher_folder, [])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"mask_probability": 0.0}, "task.mask_probability is 0; set a share above 0"),
        ({"maskings": 0}, "task.maskings is 0; it must be at least 1"),
        ({"teacher_words": 0}, "task.teacher_words is 0; it must be at least 1"),
        ({"text_columns": ["a", "b"]}, "must name one column"),
        ({"metrics": ["f1"]}, "known: loss, perplexity, accuracy"),
        ({"max_length": 2}, "leaves no room for text"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        MaskedLM(**settings).load(source(["a"]))
    assert problem in str(error.value)


def test_empty_texts_are_named() -> None:
    with pytest.raises(ConfigError, match="has no text in 1 of 2 rows"):
        MaskedLM().load(source(["a", " "]))


def test_a_trainer_in_python_learns_from_a_teacher(upstream: str, tmp_path: Path) -> None:
    task = MaskedLM(metrics=["loss", "accuracy"])
    tokenizer = AutoTokenizer.from_pretrained(upstream)
    model = AutoModelForMaskedLM.from_pretrained(upstream)
    prune(model, 0.5)
    rows = Dataset.from_dict(task.tokenize(Dataset.from_dict({"text": TEXTS[:32]}), tokenizer))
    true = [label for labels in rows["labels"] for label in labels if label != IGNORED]
    with torch.no_grad():  # otherwise it predicts no word right
        model.get_output_embeddings().bias[torch.tensor(true).mode().values] += 1
    trainer = SparseTrainer(
        model,
        "pruned90",
        teacher=upstream,
        args=TrainingArguments(str(tmp_path), max_steps=2, report_to="none", disable_tqdm=True),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        task=task,
    )
    trainer.train()
    found = trainer.evaluate()
    predicted = [
        model(input_ids=torch.tensor([ids])).logits[0].argmax(-1)[torch.tensor(labels) != IGNORED]
        for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True)
    ]
    right = torch.cat(predicted) == torch.tensor(true)
    assert 0 < right.sum() < len(true)
    assert found["eval_accuracy"] == pytest.approx(right.float().mean().item())
    outputs = predict_outputs(model, task, rows, tokenizer)
    assert found["eval_loss"] == pytest.approx(task.score(outputs, rows["labels"], [])["loss"])
