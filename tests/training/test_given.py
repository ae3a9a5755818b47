"""Whether what a user gives to SparseTrainer fits together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from api_training import tokenized, trainer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparsekit.errors import UserError

QUANTIZED = """
num_epochs: 2
init_lr: 0.001
modifiers:
  quantization:
    _target_: sparsekit.modifiers.quantization.qat.Quantization
    start: 1.0
"""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_student_of_half_precision_is_refused_with_both_ways_out(
    student_folder: str, tmp_path: Path, dtype: torch.dtype
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    load = AutoModelForSequenceClassification.from_pretrained
    data = tokenized(tokenizer)
    load(student_folder, dtype=dtype).save_pretrained(tmp_path / "half")
    half = load(tmp_path / "half")
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=rf"weights are {name}.*dtype=torch.float32\), or call"):
        trainer(half, tokenizer, data, tmp_path / "run")
    trainer(half.float(), tokenizer, data, tmp_path / "run")
    trainer(load(tmp_path / "half", dtype=torch.float32), tokenizer, data, tmp_path / "run")


def test_a_student_of_double_precision_trains_as_one_of_float32(
    student_folder: str, tmp_path: Path
) -> None:
    """Without the kernels, which read float32."""
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    data = tokenized(tokenizer)
    losses = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        student = AutoModelForSequenceClassification.from_pretrained(
            student_folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        ).to(dtype)
        made = trainer(student, tokenizer, data, tmp_path / str(dtype), recipe=QUANTIZED)
        made.train()
        assert {weight.dtype for weight in student.parameters()} == {dtype}
        losses.append(made.evaluate()["eval_loss"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
