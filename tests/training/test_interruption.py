"""What an interrupted training leaves on the model, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tiny_training import load_student, trainer
from torch import nn
from transformers import TrainerCallback

from sparsekit.errors import ConfigError
from sparsekit.recipe.recipe import Recipe

HIDDEN = {
    "_target_": "sparsekit.modifiers.distillation.layers.PerLayerDistillation",
    "student_layer_names": ["__LAYERS__"],
}
ATTENTION = {"_target_": "sparsekit.modifiers.distillation.attention.AttentionDistillation"}
QUANTIZATION = {"_target_": "sparsekit.modifiers.quantization.qat.Quantization"}


class Interrupt(TrainerCallback):
    def on_step_end(self, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_an_interrupted_training_leaves_no_hooks(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset]
) -> None:
    modifiers = {"hidden": HIDDEN, "attention": ATTENTION}
    recipe = Recipe.build({"num_epochs": 1, "modifiers": modifiers})
    student, teacher = load_student(student_folder), load_student(student_folder).model
    recipe.use_teacher(lambda: teacher)
    run = trainer(tmp_path, student, rows, recipe, [Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert hooks(student.model) == hooks(teacher) == 0


@pytest.mark.parametrize("attention", [False, True])
def test_a_second_training_of_its_model_is_told_of_the_first(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset], attention: bool
) -> None:
    def recipe() -> Recipe:
        quantization = {**QUANTIZATION, "quantize_attention": attention}
        return Recipe.build({"num_epochs": 1, "modifiers": {"quantization": quantization}})

    student = load_student(student_folder)
    run = trainer(tmp_path, student, rows, recipe(), [Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        run.train()
    with pytest.raises(ConfigError, match=r"quantizers of an earlier training.* load the model an"):
        trainer(tmp_path, student, rows, recipe())
