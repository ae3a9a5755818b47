"""A modifier in a user's own module works without a line changed in sparsekit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import Rows, load_student, trainer
from transformers import TrainerCallback

from sparsekit.errors import ConfigError
from sparsekit.models.teacher import Finetuned
from sparsekit.pipeline.experiment import teacher_arguments
from sparsekit.recipe import schedule
from sparsekit.recipe.recipe import Recipe

MODULE = "modifier_of_a_user"
SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from sparsekit.modifiers.base import Modifier, overlap


@dataclass(kw_only=True)
class MatchLogits(Modifier):
    """Adds the mean squared distance to the teacher's logits, times `weight`."""

    takes_teacher: ClassVar = "logits"

    weight: float = 1.0

    def problems(self, num_epochs):
        found = super().problems(num_epochs)
        return found if self.weight > 0 else [*found, f"weight {self.weight} must be above 0"]

    def conflict(self, other):
        if isinstance(other, MatchLogits) and overlap(self, other):
            return "both match logits; give them windows that do not overlap"
        return None

    def attach(self, model):
        self._gap = None

    def update(self, epoch):
        self._on = self.active(epoch)

    def loss(self, loss, inputs, outputs):
        if not self._on:
            return loss
        self._gap = F.mse_loss(outputs["logits"], inputs["teacher_logits"])
        return loss + self.weight * self._gap

    def logs(self):
        return {} if self._gap is None else {"logit_gap": self._gap.item()}

    def planned_lr(self, epoch, num_epochs, steps_per_epoch):
        return 0.01 * (1 - epoch / num_epochs)
'''
EPOCHS, STOP = 2, 11


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield f"{MODULE}.MatchLogits"
    sys.modules.pop(MODULE, None)


class Stop(TrainerCallback):
    """Ends the run after a number of steps, as an interruption would."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= STOP


def made(target: str, **second: Any) -> Recipe:
    nodes = {"match": {"_target_": target, "end": 1.75}}
    if second:
        nodes["again"] = {"_target_": target, **second}
    nodes["pruning"] = {"_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning"}
    return Recipe.build({"num_epochs": EPOCHS, "modifiers": nodes}, trusted=True)


def trained(
    target: str,
    checkpoint: str,
    folder: Path,
    rows: Rows,
    callbacks: list[TrainerCallback],
    resume: Path | None = None,
) -> Any:
    student, recipe = load_student(checkpoint), made(target).for_teacher(has_teacher=True)
    run = trainer(
        folder, student, rows, recipe, callbacks, save_strategy="steps", save_steps=STOP, seed=5
    )
    run.train(resume_from_checkpoint=None if resume is None else str(resume))
    return run


def test_it_trains_logs_and_resumes(
    own_module: str, student_folder: str, tmp_path: Path, rows: Rows
) -> None:
    whole = trained(own_module, student_folder, tmp_path / "whole", rows, [])
    logged = [entry for entry in whole.state.log_history if "loss" in entry]
    gaps = [entry["logit_gap"] for entry in logged]
    assert gaps[-1] < gaps[0]
    assert [entry["learning_rate"] for entry in logged[:2]] == pytest.approx([0.01, 0.009375])
    # One step an entry: the loss is the sum of its parts.
    assert logged[0]["loss"] == pytest.approx(logged[0]["task_loss"] + gaps[0], abs=2e-4)
    trained(own_module, student_folder, tmp_path / "broken", rows, [Stop()])
    checkpoint = tmp_path / "broken" / f"checkpoint-{STOP}"
    resumed = trained(own_module, student_folder, tmp_path / "broken", rows, [], checkpoint)
    assert resumed.state.global_step == whole.state.global_step == 16
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_it_needs_a_teacher(own_module: str) -> None:
    recipe = made(own_module)
    assert recipe.for_teacher(has_teacher=True).uses_teacher("logits")
    alone = recipe.for_teacher(has_teacher=False)
    assert list(alone.modifiers) == ["pruning"]
    assert "off: no teacher" in schedule.windows(alone, 16)[-1]["note"]


def test_its_problems_and_conflicts_are_the_recipes(own_module: str) -> None:
    assert made(own_module, start=1.75).problems() == []
    problems = made(own_module, start=1.5, weight=-1.0).problems()
    assert problems == [
        "recipe.modifiers.again weight -1.0 must be above 0",
        "recipe.modifiers.match and recipe.modifiers.again both match logits; give them windows "
        "that do not overlap",
    ]
    node = {"_target_": own_module, "wieght": 1.0}
    with pytest.raises(ConfigError, match="wieght is not a field of MatchLogits"):
        Recipe.build({"num_epochs": 1, "modifiers": {"match": node}}, trusted=True)


def test_the_recipe_of_a_teacher_may_have_it(own_module: str) -> None:
    recipe = {"num_epochs": 1, "modifiers": {"match": {"_target_": own_module}}}
    teacher = Finetuned(base="a/base", recipe=recipe)
    assert teacher_arguments({"learning_rate": 1.0}, teacher)["num_train_epochs"] == 1
