"""What holds at every step of any recipe: hypothesis draws recipes, batches and lengths of runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_training import LoadedModel, load_student, make_rows, trainer
from transformers import AutoModelForSequenceClassification, TrainerCallback

from sparsekit.errors import UserError
from sparsekit.recipe.recipe import Recipe
from sparsekit.training import task_trainer

LAYERS = r"re:.*\.layer\.\d+\..*(query|key|value|dense)\.weight"
ROOM = "sparsekit.modifiers"


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    """A mapping of one to three epochs, with any of pruning, distillation and quantization."""
    epochs = draw(st.sampled_from([1.0, 2.0, 3.0]))
    # In quarters of the run, so that windows begin and end within epochs too.
    start, end = (epochs * draw(st.integers(low, low + 1)) / 4 for low in (0, 2))
    modifiers: dict[str, Any] = {
        "learning_rate": {
            "_target_": f"{ROOM}.optimizer.LearningRateFunction",
            "init_lr": draw(st.sampled_from([1e-4, 1e-3, 1e-2])),
            "final_lr": 0.0,
        }
    }
    kind = draw(st.sampled_from(["constant", "gradual", "none"]))
    if kind == "constant":
        modifiers["pruning"] = {"_target_": f"{ROOM}.pruning.constant.ConstantPruning"}
    elif kind == "gradual":
        modifiers["pruning"] = {
            "_target_": f"{ROOM}.pruning.magnitude.MagnitudePruning",
            "params": [LAYERS],
            "init_sparsity": 0.9,
            "final_sparsity": draw(st.sampled_from([0.92, 0.95])),
            "start": start,
            "end": end,
        }
    if draw(st.booleans()):
        modifiers["distillation"] = {
            "_target_": f"{ROOM}.distillation.logits.Distillation",
            "hardness": draw(st.sampled_from([0.25, 1.0])),
        }
    if draw(st.booleans()):
        modifiers["quantization"] = {
            "_target_": f"{ROOM}.quantization.qat.Quantization",
            "start": end,
            "disable_observer_epoch": epochs,
        }
    return {"num_epochs": epochs, "modifiers": modifiers}


class Watch(TrainerCallback):
    """Checks masks, learning rate and quantizers at each step, and that no mask loses a zero."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.steps = recipe, 0
        self._zeros: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        per_epoch = state.max_steps / self.recipe.num_epochs
        expected = self.recipe.lr(state.global_step / per_epoch, per_epoch)
        for group in now["optimizer"].param_groups:
            assert group["lr"] == pytest.approx(expected)

    def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        self.steps += 1
        weights = dict(now["model"].named_parameters())
        assert self.recipe.violations(weights) == []
        if "pruning" in self.recipe.modifiers:
            for name, weight in weights.items():
                zeros = weight.detach() == 0
                if ".layer." in name and name.endswith("dense.weight"):
                    assert not (self._zeros.get(name, zeros) & ~zeros).any(), name
                    self._zeros[name] = zeros
        quantization = self.recipe.values["modifiers"].get("quantization")
        if quantization is not None:
            epoch = (state.global_step - 1) / state.max_steps * self.recipe.num_epochs
            on = self.recipe.logs().get("quantizers_on", 0)
            assert bool(on) == (epoch >= quantization["start"] - 1e-9)


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@settings(
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    values=recipes(),
    batch=st.sampled_from([5, 8, 16]),
    parts=st.sampled_from([1, 2]),
    rows=st.integers(17, 40),
    strategy=st.sampled_from(["random", "group_by_length"]),
)
def test_any_recipe(
    student_folder: str,
    values: dict[str, Any],
    batch: int,
    parts: int,
    rows: int,
    strategy: str,
) -> None:
    student = load_student(student_folder)
    data = make_rows(student)
    data["train"] = data["train"].select(range(rows))
    recipe = Recipe.build(values)
    watch = Watch(recipe)
    with tempfile.TemporaryDirectory() as name:
        made = trainer(
            Path(name),
            student,
            data,
            recipe,
            [watch],
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=parts,
            train_sampling_strategy=strategy,
        )
        made.train()
        assert watch.steps == made.state.global_step > 0
        # Evaluation changes nothing, not even the state from which training draws.
        before, drawn = state_of(student.model), torch.get_rng_state()
        made.evaluate()
        assert_equal(before, state_of(student.model))
        assert torch.equal(drawn, torch.get_rng_state())
        # Saving and loading is the identity.
        made.save_model(str(Path(name) / "saved"))
        loaded = AutoModelForSequenceClassification.from_pretrained(Path(name) / "saved")
        plain = loaded.state_dict()
        for key, value in before.items():
            if key in plain:
                assert torch.equal(plain[key], value), key


class Break(TrainerCallback):
    """Makes the model's output NaN or infinite before a step, as a value that overflows does."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def on_step_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                now["model"].classifier.bias[0] = self.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("together", [1, 32])
def test_a_loss_that_is_not_finite_ends_the_run(
    tmp_path: Path,
    student: LoadedModel,
    rows: dict[str, Dataset],
    value: float,
    together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where losses are looked at together, as on a GPU: at the latest before a checkpoint."""
    from tiny_training import recipe

    monkeypatch.setattr(task_trainer, "losses_per_look", lambda device: together)

    made = trainer(
        tmp_path,
        student,
        rows,
        recipe(),
        [Break(5, value)],
        save_strategy="steps",
        save_steps=2,
        train_sampling_strategy="random",
    )
    expected = list(made.get_train_dataloader())[5]["input_ids"].tolist()
    with pytest.raises(UserError, match=r"training diverged: the loss is (nan|inf) in step 6") as e:
        made.train()
    message = str(e.value)
    assert f"the last checkpoint is {tmp_path / 'checkpoint-4'}" in message
    named = message.partition("training rows ")[2].partition(" (from 0)")[0].split(", ")
    padded = {tuple(ids) for ids in expected}
    tokens = [rows["train"][int(number)]["input_ids"] for number in named]
    length = len(expected[0])
    assert {tuple(ids + [0] * (length - len(ids))) for ids in tokens} == padded
