"""Gradient checkpointing repeats forward passes, which must change nothing but the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_training import load_student, recipe, trainer
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from sparsekit.errors import UserError
from sparsekit.modifiers.quantization.fake_quantize import FakeQuantizer
from sparsekit.recipe.recipe import Recipe


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


LAYERS: dict[str, Any] = {
    "_target_": "sparsekit.modifiers.distillation.layers.PerLayerDistillation"
}
ATTENTION = {"_target_": "sparsekit.modifiers.distillation.attention.AttentionDistillation"}
LINEAR = {"student_layer_names": ["bert.encoder.layer.0.output.dense"]}


@pytest.mark.parametrize(
    ("node", "taught", "reentrant"),
    [
        (LAYERS | LINEAR, False, True),
        (LAYERS | LINEAR, True, False),
        # What a layer returns has gradients in any case.
        (LAYERS | {"student_layer_names": ["__LAYERS__"]}, True, True),
        (ATTENTION, False, True),
        (ATTENTION, True, False),
    ],
)
def test_distillation_of_outputs_without_gradients_is_refused(
    tmp_path: Path,
    student_folder: str,
    teacher_folder: str,
    rows: dict[str, Dataset],
    node: dict[str, Any],
    taught: bool,
    reentrant: bool,
) -> None:
    distilling = Recipe.build({"num_epochs": 1, "modifiers": {"it": node}})
    distilling.use_teacher(
        lambda: AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    )
    run = trainer(
        tmp_path,
        load_student(student_folder),
        rows,
        distilling,
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"use_reentrant": reentrant},
        max_steps=1,
    )
    if taught:
        run.train()
        return
    with pytest.raises(UserError, match=r"nothing from bert\.encoder.* use_reentrant: false in"):
        run.train()
