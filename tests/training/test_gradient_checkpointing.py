"""Gradient checkpointing repeats forward passes, which must change nothing but the memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_training import load_student, recipe, trainer
from torch import Tensor

from sparsekit.modifiers.quantization.fake_quantize import FakeQuantizer


@pytest.mark.parametrize("reentrant", [False, True])
def test_quantized_training_observes_each_forward_pass_once(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset], reentrant: bool
) -> None:
    def trained(checkpointing: bool) -> dict[str, Tensor]:
        student = load_student(student_folder)
        run = trainer(
            tmp_path,
            student,
            rows,
            recipe(num_epochs=1, qat_start=0.0),
            activation_checkpointing=checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": reentrant} if checkpointing else None,
            max_steps=3,
            optim="sgd",
        )
        run.train()
        assert any(isinstance(module, FakeQuantizer) for module in student.model.modules())
        return student.model.state_dict()

    plain, repeated = trained(False), trained(True)
    assert plain.keys() == repeated.keys()
    for name, value in plain.items():
        assert torch.equal(repeated[name], value), name
