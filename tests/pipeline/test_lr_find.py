"""The learning rate range test: what follows from its losses, and the command."""

from __future__ import annotations

import errno
import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.models.pruning import sparsity as zeros
from sparsekit.modifiers.rate_range import LearningRateRange
from sparsekit.pipeline import lr_find, lr_find_plot
from sparsekit.training.range_test import LossRecorder, RangeTest, smoothed
from sparsekit.training.recipe_trainer import RecipeTrainer


def test_the_rate_grows_exponentially_to_the_last_step() -> None:
    modifier = LearningRateRange(lowest=1e-6, highest=1e-2)
    rates = [modifier.lr(step / 50, 1.0, 50) for step in range(50)]
    assert rates[0] == 1e-6 and rates[-1] == pytest.approx(1e-2)
    ratios = [after / before for before, after in pairwise(rates)]
    assert max(ratios) == pytest.approx(min(ratios))
    problems = LearningRateRange(lowest=1e-2, highest=1e-6).problems(1.0)
    assert problems == ["lowest 0.01 must be above 0 and below highest 1e-06"]


@pytest.mark.parametrize(("steepest", "suggested"), [(1e-5, 1e-5), (8e-4, 1e-4)])
def test_the_suggestion_is_a_decade_below_the_lowest_loss_or_where_it_falls_fastest(
    steepest: float, suggested: float
) -> None:
    rates = [10 ** (-6 + step / 25) for step in range(101)]
    # Falls by a step around `steepest`, is lowest at 1e-3, and rises from there.
    losses = [
        0.5 / (1 + (rate / steepest) ** 40) + 0.1 * abs(math.log10(rate / 1e-3)) for rate in rates
    ]
    found = RangeTest(rates, losses)
    assert found.steepest == pytest.approx(steepest, rel=0.2)
    assert found.lowest == pytest.approx(1e-3, rel=0.2)
    assert found.suggested == pytest.approx(suggested, rel=0.2)
    assert found.falls


def test_the_average_has_no_bias_and_ends_where_the_loss_diverges() -> None:
    rates = [10.0**-i for i in range(9, 1, -1)]
    assert smoothed(rates, [0.5] * 8).losses == pytest.approx([0.5] * 8)
    assert not smoothed(rates, [0.5] * 8).falls
    diverged = smoothed(rates, [0.5, 0.5, 0.5, 90.0, 90.0, 90.0, 90.0, 90.0])
    assert len(diverged.rates) == len(diverged.losses) == 4
    # It never fell below its first step.
    assert not smoothed(rates, [0.5, 2.0, 9.0, 90.0, 90.0, 90.0, 90.0, 90.0]).falls
    assert len(smoothed(rates, [0.5, 0.4, math.nan, 0.3, 0.3, 0.3, 0.3, 0.3]).losses) == 2


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        ([0.5] * 8, 8),
        # The step after the one that diverged is the last.
        ([0.5, 0.5, 0.5, 90.0, 90.0, 90.0, 90.0, 90.0], 5),
        ([0.5, 0.4, math.nan, 0.3, 0.3, 0.3, 0.3, 0.3], 3),
    ],
)
def test_training_ends_where_the_loss_diverges(losses: list[float], steps: int) -> None:
    recorder, control = LossRecorder(), TrainerControl()
    args, state = TrainingArguments(report_to="none"), TrainerState()
    taken = 0
    while taken < len(losses) and not control.should_training_stop:
        logs = {"loss": losses[taken], "learning_rate": 10.0**-taken}
        recorder.on_log(args, state, control, logs)
        taken += 1
    recorder.on_log(args, state, control, {"train_runtime": 1.0})
    assert taken == len(recorder.losses) == len(recorder.rates) == steps


def command(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["lr-find", *words])
    return result.exit_code, result.output


@pytest.fixture
def words(csv_files: dict[str, str], teacher_folder: str) -> list[str]:
    return [
        "dataset=csv",
        *(f"dataset.data_files.{split}={csv_files[split]}" for split in ("train", "validation")),
        f"student.checkpoint={teacher_folder}",
        "student.sparsity=0.5",
        "dataset.max_length=32",
    ]


@pytest.mark.parametrize("sparsity", ["0.5", "null"])
def test_the_command(
    words: list[str], sparsity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[PreTrainedModel] = []

    class Kept(RecipeTrainer):
        def __init__(self, model: PreTrainedModel, *args: Any, **options: Any) -> None:
            super().__init__(model, *args, **options)
            models.append(model)

    monkeypatch.setattr(lr_find, "RecipeTrainer", Kept)
    target, words = tmp_path / "out", [*words, f"student.sparsity={sparsity}"]
    code, text = command(*words, "--steps", "24", "--highest", "1e-3", "-o", str(target))
    assert code == 0, text
    assert "suggested: recipe.init_lr=" in text and text.endswith(f"lr-find: {target}\n")
    found = json.loads((target / "lr-find.json").read_text())
    assert len(found["rates"]) == len(found["losses"]) == 24
    assert found["rates"][0] == pytest.approx(1e-6) and found["rates"][-1] == pytest.approx(1e-3)
    assert f"{found['suggested']:.2g}" in text
    assert (target / "lr-find.png").read_bytes().startswith(b"\x89PNG")
    [trained] = models
    kept = 0.0 if sparsity == "null" else float(sparsity)
    assert zeros(trained)["overall"] == pytest.approx(kept, abs=0.01)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lowest", "1"], "--lowest 1 must be above 0 and below --highest 0.01"),
        (["--steps", "3"], "--steps 3 must be 20 or more"),
        (["task=embedding"], "embedding learns from its teacher alone"),
        (["recipe.epochs=3"], "recipe.epochs"),
        (["student.sparsity=2"], "student.sparsity 2 lies outside of [0, 1)"),
    ],
)
def test_mistakes(more: list[str], message: str, words: list[str], tmp_path: Path) -> None:
    code, text = command(*words, *more, "-o", str(tmp_path / "out"))
    assert code == 1, text
    assert message in text
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_output(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    code, text = command(*words, "-o", str(tmp_path / "out"))
    assert code == 1 and "is a file; choose a folder" in text


def test_texts_for_a_teacher_are_left_out_with_it(words: list[str], tmp_path: Path) -> None:
    taught = ["teacher=self", "dataset.augment.copies=2", "recipe.distill_hardness=1"]
    code, text = command(*words, *taught, "--steps", "20", "-o", str(tmp_path / "out"))
    assert code == 0, text


def test_without_matplotlib_nothing_is_trained(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lr_find, "find_rate", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, lr_find_plot.__name__)
    code, text = command(*words, "-o", str(tmp_path / "out"))
    assert code == 1
    assert text == "error: sparsekit lr-find needs matplotlib: pip install 'sparsekit[plot]'\n"


def test_a_picture_that_fails_costs_no_result(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plot(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    found = RangeTest([1e-4, 1e-3], [0.7, 0.5])
    monkeypatch.setattr(lr_find, "find_rate", lambda *_, **__: found)
    monkeypatch.setattr(lr_find_plot, "plot", plot)
    code, text = command(*words, "-o", str(tmp_path / "out"))
    assert code == 1 and "no space left" in text
    assert "suggested: recipe.init_lr=" in text
    assert (tmp_path / "out" / "lr-find.json").is_file()
