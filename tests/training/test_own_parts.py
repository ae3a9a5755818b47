"""Optimizers, schedulers and losses of a user's own beside a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from api_training import tokenized, trainer
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from sparsekit.errors import UserError
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.learning_rate import recipe_scheduler
from sparsekit.training.own_parts import OwnParts
from sparsekit.training.trainer import SparseTrainer

RATE = {"_target_": "sparsekit.modifiers.optimizer.SetLearningRate", "learning_rate": 1e-4}
DECAY = {"_target_": "sparsekit.modifiers.optimizer.SetWeightDecay", "weight_decay": 0.1}
DISTILLATION = {"_target_": "sparsekit.modifiers.distillation.logits.Distillation", "hardness": 1.0}


def made(folder: Path, student_folder: str, parts: Any = None, **options: Any) -> SparseTrainer:
    """A trainer of one epoch of three steps; `parts` makes options from the model."""
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    model = AutoModelForSequenceClassification.from_pretrained(student_folder)
    given = {"recipe": recipe(rate=RATE), **(parts(model) if parts else {}), **options}
    return trainer(model, tokenizer, tokenized(tokenizer), folder, **given)


def recipe(**modifiers: dict[str, Any]) -> dict[str, Any]:
    return {"num_epochs": 1, "modifiers": modifiers}


def own_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return outputs["logits"].float().square().mean()


def arguments(folder: Path, **changes: Any) -> SparseTrainingArguments:
    settings = {"use_cpu": True, "report_to": "none", "save_strategy": "no", **changes}
    return SparseTrainingArguments(str(folder), **settings)


def test_a_class_of_optimizer_is_used_as_it_is_given(tmp_path: Path, student_folder: str) -> None:
    named = torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}
    run = made(tmp_path, student_folder, optimizer_cls_and_kwargs=named)
    run.train()
    assert type(run.optimizer.optimizer) is torch.optim.SGD
    assert run.optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("field", [{"class_weights": "balanced"}, {"label_smoothing_factor": 0.1}])
def test_two_losses_are_refused(tmp_path: Path, student_folder: str, field: dict[str, Any]) -> None:
    args = arguments(tmp_path, **field)
    with pytest.raises(UserError, match=rf"^args\.{next(iter(field))}=.* and compute_loss_func"):
        made(tmp_path, student_folder, args=args, compute_loss_func=own_loss)
    run = made(tmp_path, student_folder, compute_loss_func=own_loss)
    assert run.compute_loss_func is own_loss


def test_arguments_are_refused_before_the_teacher_runs(
    tmp_path: Path, student_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass over all texts takes minutes."""

    def teach(*_: Any) -> None:
        raise AssertionError("the teacher was run")

    monkeypatch.setattr("sparsekit.training.preparation._taught", teach)
    taught = {"recipe": recipe(distillation=DISTILLATION), "teacher": "self"}
    with pytest.raises(UserError, match="leaves the task's loss no weight"):
        made(tmp_path, student_folder, compute_loss_func=own_loss, **taught)
    weighted = arguments(tmp_path, class_weights="balanced")
    with pytest.raises(UserError, match=r"^args\.class_weights=balanced has no effect"):
        made(tmp_path, student_folder, args=weighted, **taught)
    with pytest.raises(AssertionError, match="the teacher was run"):
        made(tmp_path, student_folder, **taught)


def test_a_loss_without_effect_is_refused(tmp_path: Path) -> None:
    own, args = OwnParts.among({"compute_loss_func": own_loss}), arguments(tmp_path)
    distilled = Recipe.from_dict(recipe(distillation=DISTILLATION))
    [problem] = own.problems(args, distilled, Embedding())
    assert "learns from its teacher alone" in problem
    [problem] = own.problems(args, distilled, TextClassification())
    assert "recipe.modifiers.distillation leaves the task's loss no weight" in problem


def test_a_scheduler_beside_the_recipes_rate_is_refused(
    tmp_path: Path, student_folder: str
) -> None:
    def parts(model: Any) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return {"optimizers": (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))}

    with pytest.raises(UserError, match=r"so does the scheduler; pass \(optimizer, None\)"):
        made(tmp_path, student_folder, parts)
    run = made(tmp_path, student_folder, parts, recipe=recipe())
    scheduler = run.lr_scheduler
    run.train()
    assert type(scheduler) is torch.optim.lr_scheduler.ConstantLR
    assert scheduler.last_epoch == 3


def test_a_resumed_run_has_the_recipes_rate_whatever_rates_the_optimizers_had() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    rates = Recipe.from_dict({**recipe(rate={**RATE, "start": 0.5}), "num_epochs": 1})

    def pair(rate: float) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.AdamW([parameter], lr=rate)
        return optimizer, recipe_scheduler(rates, optimizer, steps_per_epoch=4)

    before, after = pair(1e-3), pair(5e-4)
    assert before[1].get_last_lr() == [1e-3]
    for _ in range(2):
        before[0].step()
        before[1].step()
    assert before[1].get_last_lr() == [1e-4]
    state = before[1].state_dict()
    assert all(not callable(value) for value in state.values())
    after[0].load_state_dict(before[0].state_dict())
    after[1].load_state_dict(state)
    after[0].step()
    after[1].step()
    assert after[1].get_last_lr() == [1e-4]
    # As LambdaLR, which was used before, wrote it.
    after[1].load_state_dict({**state, "lr_lambdas": [None]})
    after[1].step()
    assert after[1].get_last_lr() == [1e-4]


def test_an_optimizer_without_weight_decay(tmp_path: Path, student_folder: str) -> None:
    class Groups(TrainerCallback):
        def on_step_end(self, *_: Any, **now: Any) -> None:
            assert "weight_decay" not in now["optimizer"].param_groups[0]

    def parts(model: Any) -> dict[str, Any]:
        return {"optimizers": (torch.optim.Rprop(model.parameters(), lr=1e-3), None)}

    run = made(tmp_path / "run", student_folder, parts, callbacks=[Groups()])
    assert run.train().global_step == 3
    decays = recipe(rate=RATE, decay=DECAY)
    with pytest.raises(UserError, match="sets the weight decay, and Rprop has none"):
        made(tmp_path / "decay", student_folder, parts, recipe=decays).train()
