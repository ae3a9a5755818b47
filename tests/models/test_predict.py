"""Outputs of a model for tokenized rows."""

from __future__ import annotations

import numpy as np
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
