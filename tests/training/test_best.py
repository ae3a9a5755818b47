"""The best checkpoint: only those of the recipe's last stage compete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tiny_training import LoadedModel, recipe, trainer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparsekit.errors import ConfigError
from sparsekit.metrics import computed_names
from sparsekit.models.pruning import sparsity
from sparsekit.recipe.recipe import Recipe
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.best import LastStage, best_problems
from sparsekit.training.recipe_trainer import RecipeTrainer

M = "sparsekit.modifiers"
# Eight steps an epoch; the last stage begins with epoch 3, after step 24.
EPOCHS, LAST_STAGE = 5, 3
GRADUAL = {
    "_target_": f"{M}.pruning.magnitude.MagnitudePruning",
    "start": 2.0,
    "end": LAST_STAGE,
    "params": "__ENCODER__",
    "init_sparsity": 0.5,
    "final_sparsity": 0.75,
}
QAT = {"_target_": f"{M}.quantization.qat.Quantization", "start": LAST_STAGE}
ACDC = {
    "_target_": f"{M}.pruning.acdc.ACDCPruning",
    "compression_sparsity": 0.75,
    "update_frequency": 1.0,
    "end": 4.0,
}


def made(**modifiers: dict[str, Any]) -> Recipe:
    rate = {"_target_": f"{M}.optimizer.LearningRateFunction", "init_lr": 0.01, "final_lr": 0.0}
    return Recipe.build({"num_epochs": EPOCHS, "modifiers": {"learning_rate": rate, **modifiers}})


class Scores(TrainerCallback):
    """Sets the score of each evaluation, before the trainer compares it: one for each epoch."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = scores

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **now: Any
    ) -> None:
        now["metrics"]["eval_accuracy"] = self.scores[round(state.epoch or 0) - 1]


def training(
    tmp_path: Path,
    student: LoadedModel,
    rows: dict[str, Dataset],
    built: Recipe,
    scores: list[float],
    **arguments: Any,
) -> RecipeTrainer:
    return trainer(
        tmp_path / "checkpoints",
        student,
        rows,
        built,
        callbacks=[Scores(scores)],
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="accuracy",
        **arguments,
    )


@pytest.mark.parametrize("modifiers", [{"pruning": GRADUAL}, {"quantization": QAT}], ids=str)
def test_a_better_model_of_an_earlier_stage_is_not_chosen(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset], modifiers: dict[str, Any]
) -> None:
    """The best is epoch 1, dense and unquantized; of the last stage it is epoch 4."""
    scores = [1.0, 0.95, 0.9, 0.8, 0.7]
    run = training(
        tmp_path,
        student,
        rows,
        made(**modifiers),
        scores,
        load_best_model_at_end=True,
        save_total_limit=1,
    )
    run.train()
    assert run.state.best_global_step == 8 * 4
    assert run.state.best_metric == 0.8
    left = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert left == ["checkpoint-32"]
    if "pruning" in modifiers:
        found = sparsity(student.model)["layers"]
        assert {round(share, 2) for name, share in found.items() if ".layer." in name} == {0.75}
    assert run.recipe.violations(dict(student.model.named_parameters())) == []
    run.save_model()
    assert run.results["train"]["best_step"] == 32


def test_the_chosen_weights_are_those_of_the_checkpoint(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    from safetensors.torch import load_file

    scores = [1.0, 0.95, 0.9, 0.8, 0.7]
    built = made(pruning=GRADUAL, quantization=QAT)
    run = training(tmp_path, student, rows, built, scores, load_best_model_at_end=True)
    run.train()
    saved = load_file(tmp_path / "checkpoints" / "checkpoint-32" / "model.safetensors")
    last = load_file(tmp_path / "checkpoints" / "checkpoint-40" / "model.safetensors")
    weight = "bert.encoder.layer.0.output.dense.weight"
    assert student.model.get_parameter(weight).equal(saved[weight])
    assert not saved[weight].equal(last[weight])


@pytest.mark.parametrize(
    ("scores", "threshold"),
    # Each epoch is worse; or the fourth is better, but by too little to count.
    [([1.0, 0.9, 0.8, 0.7, 0.65], 0.0), ([1.0, 0.9, 0.8, 0.84, 0.95], 0.05)],
)
def test_early_stopping_waits_for_the_last_stage(
    tmp_path: Path,
    student: LoadedModel,
    rows: dict[str, Dataset],
    caplog: pytest.LogCaptureFixture,
    scores: list[float],
    threshold: float,
) -> None:
    """From epoch 1 on scores are worse; only after epochs 4 and 5 is that counted."""
    caplog.set_level("INFO", "sparsekit")
    run = training(
        tmp_path,
        student,
        rows,
        made(quantization={**QAT, "start": 2}),
        scores,
        early_stopping_patience=1,
        early_stopping_threshold=threshold,
    )
    run.train()
    # The first of the last stage is epoch 3, and epoch 4 is no better.
    assert run.state.global_step == 8 * 4
    assert "stopped early, after step 32 of 40" in caplog.text


class StepLosses(TrainerCallback):
    """Sets the loss of each evaluation, by its step."""

    def __init__(self, losses: dict[int, float]) -> None:
        self.losses = losses

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **now: Any
    ) -> None:
        now["metrics"]["eval_loss"] = self.losses[state.global_step]


@pytest.mark.parametrize(
    "losses",
    [{2: 0.9, 4: 0.5, 6: 0.4, 8: 0.6}, {2: 0.3, 4: 0.5, 6: 0.6, 8: 0.6}],
    ids=["a later evaluation is better", "an earlier one is better"],
)
def test_only_evaluations_with_a_checkpoint_compete(
    tmp_path: Path,
    student: LoadedModel,
    rows: dict[str, Dataset],
    losses: dict[int, float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "sparsekit")
    run = trainer(
        tmp_path,
        student,
        rows,
        made(),
        callbacks=[StepLosses(losses)],
        max_steps=8,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    run.train()
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert "step 4, the best checkpoint of the recipe's last stage: loss 0.5" in caplog.text
    run.save_model()
    assert run.results["train"]["best_step"] == 4


@pytest.mark.parametrize(
    ("modifiers", "epoch"),
    [
        ({}, 0),
        ({"pruning": GRADUAL}, 3),
        ({"pruning": GRADUAL, "quantization": {**QAT, "start": 4}}, 4),
        ({"pruning": ACDC}, 3),
        ({"pruning": {**ACDC, "leave_enabled": False}}, 4),
        ({"pruning": {"_target_": f"{M}.pruning.constant.ConstantPruning"}}, 0),
        ({"pruning": {"_target_": f"{M}.pruning.constant.ConstantPruning", "start": 1}}, 1),
    ],
    ids=str,
)
def test_the_last_stage_begins_when_no_modifier_changes_the_structure_any_more(
    modifiers: dict[str, Any], epoch: float
) -> None:
    built = made(**modifiers)
    assert built.final_from == epoch
    reached = [step for step in range(1, 41) if LastStage(built).reached(step, 8 * EPOCHS)]
    assert reached == list(range(round(8 * epoch) + 1, 41))


def test_a_best_checkpoint_of_an_earlier_stage_is_forgotten_on_resume() -> None:
    """As version 0.1 recorded it in `trainer_state.json`."""
    state = TrainerState(
        max_steps=40, best_metric=1.0, best_global_step=16, best_model_checkpoint="checkpoint-16"
    )
    arguments = TrainingArguments(report_to="none", use_cpu=True)
    stage = LastStage(made(quantization=QAT))
    stage.on_train_begin(arguments, state, TrainerControl())
    assert (state.best_metric, state.best_global_step, state.best_model_checkpoint) == (None,) * 3
    state.best_metric, state.best_global_step = 0.5, 32
    stage.on_train_begin(arguments, state, TrainerControl())
    assert (state.best_metric, state.best_global_step) == (0.5, 32)


def test_a_best_score_without_its_checkpoint_is_forgotten_on_resume(tmp_path: Path) -> None:
    asked = arguments(tmp_path, load_best_model_at_end=True)
    stage = LastStage(made())
    state = TrainerState(max_steps=40, best_metric=0.4, best_global_step=6)
    for checkpoint in (None, "checkpoint-4"):  # it is gone, or an unsaved step was better
        state.best_metric, state.best_global_step = 0.4, 6
        state.best_model_checkpoint = checkpoint
        stage.on_train_begin(asked, state, TrainerControl())
        assert (state.best_metric, state.best_global_step) == (None, None)
        assert state.best_model_checkpoint is None


def arguments(tmp_path: Path, **settings: Any) -> SparseTrainingArguments:
    return SparseTrainingArguments(
        output_dir=str(tmp_path), eval_strategy="epoch", save_strategy="epoch", **settings
    )


def test_a_metric_that_is_not_computed_is_named_before_training(tmp_path: Path) -> None:
    asked = arguments(tmp_path, load_best_model_at_end=True, metric_for_best_model="f1")
    [problem] = best_problems(asked, recipe(), ["accuracy"])
    assert "choose one of loss, accuracy" in problem
    assert "dataset.metrics=[accuracy,f1]" in problem
    assert best_problems(asked, recipe(), ["f1"]) == []
    assert best_problems(asked, recipe(), None) == []
    mcc = arguments(tmp_path, load_best_model_at_end=True, metric_for_best_model="eval_mcc")
    assert mcc.metric_for_best_model == "matthews_correlation"
    assert best_problems(mcc, recipe(), computed_names(["mcc"])) == []


def test_a_recipe_whose_last_stage_has_no_checkpoint_is_refused(tmp_path: Path) -> None:
    asked = arguments(tmp_path, early_stopping_patience=2)
    assert (asked.metric_for_best_model, asked.greater_is_better) == ("loss", False)
    [problem] = best_problems(asked, made(pruning={**GRADUAL, "end": EPOCHS}), ["accuracy"])
    assert "last stage at epoch 5, where training ends" in problem


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "`max_steps` is 0; set 1 or more, or -1"),
        ({"max_steps": -3}, "`max_steps` is -3; set 1 or more, or -1"),
        ({"early_stopping_patience": 0}, "`early_stopping_patience` is 0; set 1 or more"),
        (
            {"early_stopping_patience": 1, "early_stopping_threshold": -1.0},
            "`early_stopping_threshold` is -1; set 0 or more",
        ),
        ({"early_stopping_patience": 1, "eval_strategy": "no"}, "set `eval_strategy=epoch`"),
    ],
)
def test_arguments_that_cannot_work_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SparseTrainingArguments(output_dir=str(tmp_path), **settings)
