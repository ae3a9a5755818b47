"""Outputs of a model for tokenized rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_training import load_student
from transformers import BertForSequenceClassification

from sparsekit.models.predict import predict_outputs
from sparsekit.tasks.text_classification import TextClassification


def test_a_model_of_one_type_reads_no_types(student_folder: str) -> None:
    """A teacher may have the student's vocabulary, whose tokens name the second text of a pair."""
    student = load_student(student_folder)
    assert "token_type_ids" in student.tokenizer.model_input_names
    torch.manual_seed(0)
    config = student.model.config.__class__(
        **{**student.model.config.to_dict(), "type_vocab_size": 1}
    )
    model = BertForSequenceClassification(config).eval()
    columns = {"input_ids": [[5, 6, 7]] * 2, "attention_mask": [[1] * 3] * 2, "length": [3] * 2}
    rows = Dataset.from_dict(columns | {"token_type_ids": [[0, 0, 1], [0, 0, 0]]})
    logits = predict_outputs(model, TextClassification(), rows, student.tokenizer)["logits"]
    with torch.inference_mode():
        expected = model(torch.tensor([[5, 6, 7]])).logits
    np.testing.assert_allclose(logits, np.repeat(expected.numpy(), 2, axis=0), atol=1e-6)


def rows_of(count: int) -> Dataset:
    columns = {"input_ids": [[5, 6, 7]] * count, "attention_mask": [[1] * 3] * count}
    return Dataset.from_dict(columns | {"length": [3] * count})


def test_an_interrupted_pass_leaves_the_model_as_it_was(student_folder: str) -> None:
    student = load_student(student_folder)
    model = student.model.train()
    model.classifier.eval()
    before = hooks(model)

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    handle = model.classifier.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict_outputs(model, TextClassification(), rows_of(2), student.tokenizer)
    handle.remove()
    assert hooks(model) == before
    assert model.training
    assert model.bert.training
    assert not model.classifier.training


def test_a_model_answers_on_a_device_and_comes_back(
    student_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every move is recorded and left out: there is no second device here."""
    student = load_student(student_folder)
    moves: list[str] = []

    def to(self: Any, device: torch.device) -> Any:
        moves.append(str(device))
        return self

    def forward(*args: Any, **options: Any) -> Any:
        moves.append("answers")
        return original(*args, **options)

    original = student.model.bert.forward
    monkeypatch.setattr(type(student.model), "to", to)
    monkeypatch.setattr(student.model.bert, "forward", forward)
    ask = partial(predict_outputs, student.model, TextClassification(), rows_of(1))
    ask(student.tokenizer, torch.device("meta"))
    assert moves == ["meta", "answers", "cpu"]
    moves.clear()
    ask(student.tokenizer, torch.device("cpu"))
    ask(student.tokenizer)
    assert moves == ["answers", "answers"]


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
