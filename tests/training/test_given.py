"""Whether what a user gives to SparseTrainer fits together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from api_training import tokenized, trainer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparsekit.errors import UserError


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
