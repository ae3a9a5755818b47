"""Weight averaging: what the mean is of, where it is used, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import Rows, load_student, trainer
from torch import Tensor
from transformers import TrainerCallback

from sparsekit.modifiers.weight_averaging import WeightAveraging, add_to_mean
from sparsekit.recipe.recipe import Recipe

NODE = {"_target_": "sparsekit.modifiers.weight_averaging.WeightAveraging"}
NAME = "bert.encoder.layer.0.intermediate.dense.weight"


def recipe(start: float, frequency: float, **more: Any) -> Recipe:
    averaging = {**NODE, "start": start, "update_frequency": frequency}
    rate = {
        "_target_": "sparsekit.modifiers.optimizer.SetLearningRate",
        "learning_rate": 0.01,
    }
    return Recipe.build(
        {"num_epochs": 3, "modifiers": {"averaging": averaging, "rate": rate, **more}}
    )


class Weights(TrainerCallback):
    """The weight after each step, and at each evaluation."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        self.steps.append(now["model"].get_parameter(NAME).detach().clone())


def test_the_mean_is_updated_in_place() -> None:
    values = [torch.tensor([value]) for value in (3.0, 6.0, 0.0)]
    mean = torch.tensor([99.0])
    for count, value in enumerate(values):
        add_to_mean([mean], [value], count)
    assert mean == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("start", "frequency", "expected"),
    [(1.0, 0.01, slice(8, None)), (2.0, 0.25, slice(16, None, 2)), (2.9, 5.0, slice(24, None))],
)
def test_the_model_ends_with_the_mean_of_the_window(
    start: float,
    frequency: float,
    expected: slice,
    student_folder: str,
    tmp_path: Path,
    rows: Rows,
) -> None:
    """With 8 steps an epoch; a window in which no step begins leaves the weights as they are."""
    student, seen = load_student(student_folder), Weights()
    training = trainer(tmp_path, student, rows, recipe(start, frequency), [seen])
    training.train()
    steps = seen.steps[expected] or seen.steps[-1:]
    assert len(seen.steps) == 24
    mean = torch.stack(steps).mean(dim=0)
    torch.testing.assert_close(student.model.get_parameter(NAME).detach(), mean)


def test_evaluations_are_of_the_mean_and_training_goes_on_without_it(
    student_folder: str, tmp_path: Path, rows: Rows
) -> None:
    student = load_student(student_folder)
    training = trainer(tmp_path, student, rows, recipe(1.0, 0.01))
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    class Evaluations(Weights):
        def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
            super().on_step_end(args, state, control, **now)
            if state.global_step == 12:
                before = self.steps[-1]
                within: list[Tensor] = []
                hook = student.model.register_forward_hook(
                    lambda model, *_: within.append(model.get_parameter(NAME).detach().clone())
                )
                training.evaluate()
                hook.remove()
                after = student.model.get_parameter(NAME).detach().clone()
                found.append((before, within[0], after))

    seen = Evaluations()
    training.add_callback(seen)
    training.train()
    [(before, within, after)] = found
    assert torch.equal(before, after)
    torch.testing.assert_close(within, torch.stack(seen.steps[8:12]).mean(dim=0))


def test_zeros_stay(teacher_folder: str, tmp_path: Path, rows: Rows) -> None:
    """Weights that were still there when the window began are zero in the mean too."""
    pruning = {
        "_target_": "sparsekit.modifiers.pruning.magnitude.MagnitudePruning",
        "start": 0.0,
        "end": 2.5,
        "params": ["__ENCODER__"],
        "init_sparsity": 0.0,
        "final_sparsity": 0.75,
    }
    student, used = load_student(teacher_folder), recipe(1.0, 0.01, pruning=pruning)
    trainer(tmp_path, student, rows, used).train()
    zeros = int((student.model.get_parameter(NAME) == 0).sum())
    assert zeros == round(0.75 * student.model.get_parameter(NAME).numel())
    assert used.violations(dict(student.model.named_parameters())) == []


def test_problems() -> None:
    assert WeightAveraging(start=1.0).problems(3) == []
    [before] = WeightAveraging(start=-5.0).problems(20)
    assert "recipe.averaged_epochs (now 25)" in before and "qat_epochs" not in before
    [frequency] = WeightAveraging(update_frequency=0).problems(3)
    assert "update_frequency 0 must be more than 0" in frequency
    [early] = WeightAveraging(start=1.0, end=2.0).problems(3)
    assert "set end: null" in early
    both = {"modifiers": {"one": NODE, "other": NODE}, "num_epochs": 3}
    [conflict] = Recipe.build(both).problems()
    assert "both average the weights" in conflict
