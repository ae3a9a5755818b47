"""Students and teachers as they are loaded, pruned and run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from sparsekit.config import UserError
from sparsekit.data import TextData, tokenize
from sparsekit.hub import fetch
from sparsekit.models import (
    Student,
    length_batches,
    load_classifier,
    predict_logits,
    prunable,
    prune,
    sparsity,
    weights_hash,
)

LABELS = ["neg", "pos"]


def test_a_sparse_student_keeps_its_zeros_and_gets_a_head(student_folder: str) -> None:
    loaded = Student(checkpoint=student_folder).load(LABELS, 64)
    measured = sparsity(loaded.model)
    assert measured["overall"] == pytest.approx(0.9, abs=1e-3)
    assert measured["layers"]["classifier"] == 0
    assert loaded.model.config.id2label == {0: "neg", 1: "pos"}
    assert loaded.model.dtype == torch.float32


@pytest.mark.parametrize("share", [0.0, 0.33, 0.8])
def test_pruning_at_load_is_exact_in_every_layer(teacher_folder: str, share: float) -> None:
    loaded = Student(checkpoint=teacher_folder, sparsity=share).load(LABELS, 64)
    for module in prunable(loaded.model).values():
        assert int((module.weight == 0).sum()) == round(share * module.weight.numel())
    assert (loaded.model.bert.pooler.dense.weight != 0).all()


def test_pruning_twice_changes_nothing(teacher_folder: str) -> None:
    model = Student(checkpoint=teacher_folder, sparsity=0.5).load(LABELS, 64).model
    before = {name: p.clone() for name, p in model.named_parameters()}
    prune(model, 0.5)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_share_of_one_is_refused() -> None:
    assert (
        "student.sparsity 1.0 lies outside" in Student(checkpoint="x", sparsity=1.0).problems()[0]
    )


def test_a_sequence_longer_than_the_model(teacher_folder: str) -> None:
    with pytest.raises(UserError, match="max_length 9999 is more than the 512 positions"):
        Student(checkpoint=teacher_folder).load(LABELS, 9999)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_weights_cut_short_are_named(teacher_folder: str, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(teacher_folder, folder)
    if kind == "safetensors":
        load_classifier(folder, LABELS, 64)[0].model.save_pretrained(folder)
        (folder / "pytorch_model.bin").unlink()
    weights = folder / ("pytorch_model.bin" if kind == "bin" else "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-2000])
    with pytest.raises(UserError, match=f"cannot read the weights {weights.name}.*cut short"):
        load_classifier(folder, LABELS, 64)


def test_a_folder_without_weights(teacher_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    shutil.copytree(teacher_folder, folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        load_classifier(folder, LABELS, 64)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(UserError, match="there is no checkpoint folder"):
        fetch("./nowhere")


def test_the_weights_hash_sees_every_weight(teacher_folder: str, student_folder: str) -> None:
    assert weights_hash(Path(teacher_folder)) == weights_hash(Path(teacher_folder))
    assert weights_hash(Path(teacher_folder)) != weights_hash(Path(student_folder))


def test_logits_come_in_the_order_of_the_rows(teacher_folder: str) -> None:
    loaded, _ = load_classifier(Path(teacher_folder), LABELS, 64)
    texts = ["the plot is dull .", "warm", "the cast is truly witty from start to finish ."] * 3
    rows = Dataset.from_dict({"text": texts, "label": [0] * 9})
    tokens = tokenize(TextData({"t": rows}, LABELS, 64), loaded.tokenizer, loaded.tokenizer_hash)
    logits = predict_logits(loaded.model, tokens["t"], loaded.tokenizer)
    loaded.model.eval()
    for row, text in enumerate(texts):
        with torch.no_grad():
            alone = loaded.model(**loaded.tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(logits[row], alone.numpy(), atol=1e-5)


def test_batches_hold_every_row_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 1000)
    batches = length_batches(lengths, 256)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert all(len(batch) * lengths[batch].max() <= 256 for batch in batches)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded / lengths.sum() < 1.1
