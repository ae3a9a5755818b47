"""Class weights and smoothed labels in the task's loss, alone and beside distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_training import LoadedModel, recipe, trainer

from sparsekit.errors import ConfigError
from sparsekit.models.predict import predict_outputs
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.class_weights import class_weights, weighted_loss, without_effect

LABELS = [0, 0, 0, 1, 1, 2]
NAMES = ["delivery", "payment", "refund", "other"]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=torch.arange(3).numpy(), y=LABELS)
    weights = class_weights("balanced", LABELS, NAMES[:3])
    assert weights == pytest.approx(expected.tolist())
    # The mean over the rows is 1; a class without rows is not divided by zero.
    assert sum(weights[label] for label in LABELS) / len(LABELS) == pytest.approx(1)
    assert class_weights("balanced", LABELS, NAMES) == pytest.approx([*weights, 1])


def test_weights_by_name_and_in_order() -> None:
    assert class_weights({"refund": 3}, LABELS, NAMES) == [1, 1, 3, 1]
    assert class_weights([1.0, 2.0, 3.0, 0.0], LABELS, NAMES) == [1, 2, 3, 0]
    # yaml reads the name of a class as a number.
    assert class_weights({1: 2.0}, [0, 1], ["0", "1"]) == [1, 2]  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"names 'refunds'; the classes are delivery, payment"):
        class_weights({"refunds": 3.0}, LABELS, NAMES)
    with pytest.raises(ConfigError, match="has 2 weights for 4 classes: give one for each of"):
        class_weights([1.0, 2.0], LABELS, NAMES)


@pytest.mark.parametrize("choice", ["balance", [1.0, -1.0], [0.0, 0.0], {"a": float("nan")}])
def test_weights_that_cannot_be_used_are_refused(choice: Any) -> None:
    with pytest.raises(ConfigError, match="`class_weights="):
        SparseTrainingArguments(class_weights=choice)


def test_the_loss_of_a_row_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor(LABELS)
    loss = weighted_loss([0.5, 1.0, 4.0], label_smoothing=0.0)
    each = [loss({"logits": logits[i : i + 1]}, labels[i : i + 1]) for i in range(6)]
    assert loss({"logits": logits}, labels) == pytest.approx(sum(each).item() / 6)
    summed = torch.nn.functional.cross_entropy(
        logits, labels, weight=torch.tensor([0.5, 1.0, 4.0]), reduction="sum"
    )
    assert loss({"logits": logits}, labels) == pytest.approx(summed.item() / 6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_trainer_weights_and_smooths_the_tasks_loss_beside_distillation(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset], smoothing: float
) -> None:
    task, weights = TextClassification(), torch.tensor([1.0, 3.0])

    def loss(logits: torch.Tensor, labels: list[int]) -> float:
        each = torch.nn.functional.cross_entropy(
            logits, torch.tensor(labels), reduction="none", label_smoothing=smoothing
        )
        return float((weights[labels] * each).mean())

    outputs = predict_outputs(student.model, task, rows["train"], student.tokenizer)
    expected = loss(torch.tensor(outputs["logits"]), rows["train"]["labels"])
    run = trainer(
        tmp_path,
        student,
        rows,
        recipe(qat_start=None),
        class_weights=[1.0, 3.0],
        label_smoothing_factor=smoothing,
        per_device_train_batch_size=64,
        max_steps=1,
        eval_strategy="steps",
    )
    run.train()
    first, evaluated = run.state.log_history[:2]
    assert first["task_loss"] == pytest.approx(expected, rel=1e-5)
    assert first["loss"] == pytest.approx((first["task_loss"] + first["kd_loss"]) / 2, abs=1e-3)
    # Of the trained model, weighted as in training.
    outputs = predict_outputs(student.model, task, rows["validation"], student.tokenizer)
    expected = loss(torch.tensor(outputs["logits"]), rows["validation"]["labels"])
    assert evaluated["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_accumulated_batches_weigh_as_one(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    losses = []
    for size, accumulated in ((32, 1), (8, 4)):
        run = trainer(
            tmp_path / str(size),
            student,
            rows,
            recipe(qat_start=None, init_lr=1e-6),
            class_weights="balanced",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
        )
        run.train()
        losses.append(run.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_what_the_recipe_leaves_without_effect_is_refused() -> None:
    asked = SparseTrainingArguments(class_weights="balanced", label_smoothing_factor=0.1)
    problems = without_effect(asked, recipe(hardness=1.0))
    assert [problem.partition("=")[0] for problem in problems] == [
        "training.class_weights",
        "training.label_smoothing_factor",
    ]
    assert "recipe.modifiers.distillation leaves the task's loss no weight" in problems[0]
    assert without_effect(asked, recipe(hardness=0.5)) == []
    assert without_effect(asked, recipe(hardness=1.0).for_teacher(has_teacher=False)) == []
    assert without_effect(SparseTrainingArguments(), recipe(hardness=1.0)) == []
