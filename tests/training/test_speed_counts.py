"""What makes training fast, counted instead of timed: counts do not depend on the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_training import LABELS, Rows, load_student, trainer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from sparsekit.models import teacher
from sparsekit.models.loading import LoadedModel
from sparsekit.models.teacher import teacher_outputs
from sparsekit.modifiers.quantization.rounding import has_int8_units
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.base import Data
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.tokens import tokenize

TASK = TextClassification(max_length=64)

MODIFIERS = {
    "pruning": {
        "_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning",
        "params": "re:.*encoder.*dense.weight",
    },
    "distillation": {
        "_target_": "sparsekit.modifiers.distillation.logits.Distillation",
        "hardness": 0.5,
    },
    "quantization": {
        "_target_": "sparsekit.modifiers.quantization.qat.Quantization",
        "start": 1.0,
    },
}


def recipe() -> Recipe:
    return Recipe.build({"num_epochs": 2, "modifiers": MODIFIERS})


class Counting(TorchDispatchMode):
    """Counts operations by name; `_local_scalar_dense` is how a tensor becomes a number."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = operation.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return operation(*args, **(kwargs or {}))


class CountSteps(TrainerCallback):
    """The operations of each step, from its forward pass to its masks."""

    def __init__(self) -> None:
        self.steps: list[dict[str, int]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mode = Counting()
        self._mode.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mode.__exit__(None, None, None)
        self.steps.append(self._mode.counts)


@pytest.fixture
def counted(tmp_path: Path, student: LoadedModel, rows: Rows) -> list[dict[str, int]]:
    """The operations of 16 steps, the last 8 with quantizers."""
    counting = CountSteps()
    run = trainer(tmp_path, student, rows, recipe(), [counting])
    run.train()
    return counting.steps


def test_a_step_waits_for_the_device_no_more_than_transformers_trainer(
    tmp_path: Path, student_folder: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The optimizer for CPUs reads its count of steps from tensors, which wait for nothing there.
    monkeypatch.setattr("sparsekit.training.cpu.adamw.kernel.available", lambda: False)
    ours, plain = CountSteps(), CountSteps()
    trainer(tmp_path, load_student(student_folder), rows, recipe(), [ours]).train()
    loaded = load_student(student_folder)
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=8,
        num_train_epochs=1,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    Trainer(
        loaded.model,
        args,
        DataCollatorWithPadding(loaded.tokenizer),
        train_dataset=rows["train"],
        callbacks=[plain],
    ).train()

    def waits(steps: list[dict[str, int]]) -> list[int]:
        return [step.get("_local_scalar_dense", 0) for step in steps]

    assert len(ours.steps) == 16 and len(plain.steps) == 8
    assert max(waits(ours.steps)) <= min(waits(plain.steps))


def test_quantizers_multiply_integers_and_only_from_their_start(
    counted: list[dict[str, int]], student: LoadedModel
) -> None:
    layers = sum(isinstance(m, torch.nn.Linear) for m in student.model.modules())
    products = [step.get("_int_mm", 0) for step in counted]
    assert products == [0] * 8 + [layers if has_int8_units() else 0] * 8
    assert not any("fake_quantize" in name for step in counted for name in step)


def test_masks_are_applied_by_one_operation(counted: list[dict[str, int]]) -> None:
    assert [step["_foreach_mul_"] for step in counted] == [1] * 16


def test_no_teacher_runs_while_the_student_trains(
    tmp_path: Path, student: LoadedModel, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards: list[int] = []
    forward = type(student.model).forward

    def counted_forward(self: PreTrainedModel, *args: Any, **options: Any) -> Any:
        forwards.append(id(self))
        return forward(self, *args, **options)

    monkeypatch.setattr(type(student.model), "forward", counted_forward)
    trainer(tmp_path, student, rows, recipe()).train()
    assert forwards == [id(student.model)] * 16


def test_grouping_by_length_leaves_little_padding(tmp_path: Path, student: LoadedModel) -> None:
    texts = hub_seed.reviews(640, seed=1)
    rng = np.random.default_rng(0)
    # Reviews of 1 to 5 sentences.
    for row in texts:
        row["text"] = " ".join([row["text"]] * int(rng.integers(1, 6)))
    made = Data(TASK, {"train": Dataset.from_list(texts)}, LABELS)
    tokens = tokenize(made, student.tokenizer, student.tokenizer_hash)["train"]
    rows = {"train": tokens, "validation": tokens}

    def waste(sampling: str) -> float:
        plain = Recipe.build({"num_epochs": 1, "modifiers": {}})
        run = trainer(tmp_path, student, rows, plain, train_sampling_strategy=sampling)
        masks = [batch["attention_mask"] for batch in run.get_train_dataloader()]
        return 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)

    assert waste("group_by_length") < 0.1 < waste("random")


def test_the_second_run_tokenizes_nothing_and_runs_no_teacher(
    student: LoadedModel, teacher_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Data(
        TASK,
        {"train": Dataset.from_list(hub_seed.reviews(24, seed=2))},
        LABELS,
    )
    first = tokenize(made, student.tokenizer, student.tokenizer_hash)["train"]
    logits = teacher_outputs(Path(teacher_folder), made, ["train"])["train"]["logits"]

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was computed again")

    monkeypatch.setattr(teacher, "predict_outputs", refuse)
    monkeypatch.setattr(teacher, "load_for_task", refuse)
    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", refuse)
    again = tokenize(made, student.tokenizer, student.tokenizer_hash)["train"]
    assert again["input_ids"][:] == first["input_ids"][:]
    assert np.array_equal(
        teacher_outputs(Path(teacher_folder), made, ["train"])["train"]["logits"], logits
    )
