"""Learning-rate schedules against torch's own, and what is wrong with their fields."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.optimizer import LearningRate, LearningRateFunction, SetLearningRate
from sparsekit.recipe.recipe import Recipe

PER_EPOCH = 8


@pytest.mark.parametrize("cycle_mult", [1, 2])
def test_warm_restarts_are_torchs(cycle_mult: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = CosineAnnealingWarmRestarts(optimizer, PER_EPOCH, cycle_mult, eta_min=0.01)
    options = {"lr_min": 0.01, "cycle_epochs": 1.0, "cycle_mult": cycle_mult}
    ours = LearningRate(
        lr_class="CosineAnnealingWarmRestarts", init_lr=0.1, lr_kwargs=options, start=2.0
    )
    for step in range(5 * PER_EPOCH):
        [expected] = theirs.get_last_lr()
        assert ours.lr(2.0 + step / PER_EPOCH, 7, PER_EPOCH) == pytest.approx(expected, abs=1e-9)
        optimizer.step()
        theirs.step()


def test_milestones_are_epochs_of_the_run() -> None:
    ours = LearningRate(
        start=1.0,
        end=4.0,
        lr_class="MultiStepLR",
        init_lr=1.0,
        lr_kwargs={"milestones": [2.0, 3.0], "gamma": 0.5},
    )
    assert [ours.lr(epoch, 5, PER_EPOCH) for epoch in (1.0, 1.9, 2.0, 3.0)] == [1, 1, 0.5, 0.25]
    recipe = Recipe(5, {"lr": ours}, {})
    assert [recipe.lr(epoch, PER_EPOCH) for epoch in (0.5, 4.5)] == [None, 0.25]


def test_a_rate_that_is_set_stays_until_a_schedule_starts() -> None:
    modifiers: dict[str, Modifier] = {
        "set": SetLearningRate(learning_rate=0.5),
        "fall": LearningRateFunction(start=2.0, end=4.0, init_lr=0.2, final_lr=0.1),
    }
    recipe = Recipe(5, modifiers, {})
    assert recipe.problems() == []
    rates = [recipe.lr(epoch, PER_EPOCH) for epoch in (0.0, 1.9, 2.0, 3.0, 4.5)]
    assert rates == pytest.approx([0.5, 0.5, 0.2, 0.15, 0.1])


@pytest.mark.parametrize("start", [2.0, 3.0])
def test_a_rate_set_within_a_schedule_is_refused(start: float) -> None:
    modifiers: dict[str, Modifier] = {
        "set": SetLearningRate(learning_rate=0.5, start=start),
        "fall": LearningRateFunction(start=2.0, end=4.0, init_lr=0.2, final_lr=0.1),
    }
    [problem] = Recipe(5, modifiers, {}).problems()
    assert f"set and recipe.modifiers.fall both set the learning rate at epoch {start:g}" in problem


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"lr_class": "OneCycleLR"}, "'OneCycleLR' is not one of StepLR, MultiStepLR"),
        ({"lr_kwargs": {"step_size": 1.0}}, "StepLR lacks gamma"),
        ({"lr_kwargs": {"step_size": 0.0, "gamma": 0.5}}, "step_size 0.0 must be more than 0"),
        ({"lr_kwargs": {"step_size": 1, "gamma": 0.5, "last": 3}}, "has no 'last'; known: step"),
        ({"lr_kwargs": {"step_size": 1, "gamma": "x"}}, "gamma 'x' must be a number"),
        (
            {"lr_class": "MultiStepLR", "lr_kwargs": {"milestones": 2, "gamma": 0.5}},
            "milestones 2 must be a list of epochs",
        ),
        (
            {
                "lr_class": "CosineAnnealingWarmRestarts",
                "lr_kwargs": {"lr_min": 0, "cycle_epochs": 1, "cycle_mult": 0.5},
            },
            "cycle_mult 0.5 must be 1 or more",
        ),
        ({"init_lr": 0.0}, "init_lr 0.0 must be more than 0"),
    ],
)
def test_fields_that_are_wrong(fields: dict[str, Any], problem: str) -> None:
    good = {"lr_class": "StepLR", "init_lr": 0.1, "lr_kwargs": {"step_size": 1, "gamma": 0.5}}
    [found] = LearningRate(**{**good, **fields}).problems(3)
    assert problem in found


def test_a_set_rate_has_no_end() -> None:
    [found] = SetLearningRate(learning_rate=0.1, end=2.0).problems(3)
    assert "end is 2, but the rate stays once it is set" in found
