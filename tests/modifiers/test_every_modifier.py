"""Every modifier trains, resumes in the middle of its window to the last bit, keeps its word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from modifier_settings import EPOCHS, SETTINGS, Setting, every_modifier
from tiny_training import Rows, load_student, trainer
from torch import Tensor
from transformers import PreTrainedModel

import sparsekit.modifiers
from sparsekit.errors import ConfigError
from sparsekit.recipe.recipe import Recipe

# Half-way through an epoch, and through every window of the settings.
STOP = 12
CHECKPOINT = f"checkpoint-{STOP}"


def node(setting: Setting) -> dict[str, Any]:
    return {"_target_": f"sparsekit.modifiers.{setting.target}", **setting.fields}


def made(setting: Setting, checkpoint: str) -> Recipe:
    recipe = Recipe.build({"num_epochs": EPOCHS, "modifiers": {"it": node(setting)}})
    assert recipe.problems() == []
    recipe.use_teacher(lambda: other_model(checkpoint))
    return recipe


def other_model(checkpoint: str) -> PreTrainedModel:
    """A teacher whose first layer differs from the student's."""
    torch.manual_seed(7)
    teacher = load_student(checkpoint).model
    torch.nn.init.normal_(teacher.get_parameter("bert.encoder.layer.0.output.dense.weight"))
    return teacher


def run(
    setting: Setting,
    checkpoint: str,
    folder: Path,
    rows: Rows,
    resume: Path | None = None,
) -> tuple[PreTrainedModel, Recipe, dict[str, Tensor]]:
    student, recipe = load_student(checkpoint), made(setting, checkpoint)
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    training = trainer(
        folder, student, rows, recipe, [], save_strategy="steps", save_steps=STOP, seed=5
    )
    result = training.train(resume_from_checkpoint=None if resume is None else str(resume))
    assert torch.isfinite(torch.tensor(result.training_loss))
    return student.model, recipe, before


@every_modifier
def test_it_trains_and_keeps_its_word(
    setting: Setting, student_folder: str, teacher_folder: str, tmp_path: Path, rows: Rows
) -> None:
    start = teacher_folder if setting.dense_student else student_folder
    model, recipe, before = run(setting, start, tmp_path / "whole", rows)
    setting.invariant(before, model)
    assert recipe.violations(dict(model.named_parameters())) == []
    resumed, _, _ = run(setting, start, tmp_path / "resumed", rows, tmp_path / "whole" / CHECKPOINT)
    state = resumed.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    "names",
    [
        # Scores must survive the replacement of layers, whichever comes first.
        ("MovementPruning", "quantization"),
        ("quantization", "MovementPruning"),
        ("MagnitudePruning", "distillation", "quantization", "linear", "weight decay, for a while"),
        # The Fisher is measured through the rounding, whichever comes first.
        ("OBSPruning", "distillation", "quantization"),
        ("quantization", "MFACPruning"),
        # Structures, single weights and int8 in one recipe; the mean is taken before they go.
        ("structured and zeros", "distillation", "quantization", "averaging"),
    ],
    ids=" + ".join,
)
def test_modifiers_together_resume(
    names: tuple[str, ...], teacher_folder: str, tmp_path: Path, rows: Rows
) -> None:
    by_name = {setting.name: setting for setting in SETTINGS}

    def trained(folder: Path, resume: Path | None) -> Any:
        student = load_student(teacher_folder)
        recipe = Recipe.build(
            {"num_epochs": EPOCHS, "modifiers": {name: node(by_name[name]) for name in names}}
        )
        training = trainer(
            folder, student, rows, recipe, [], save_strategy="steps", save_steps=STOP, seed=5
        )
        training.train(resume_from_checkpoint=None if resume is None else str(resume))
        return student.model.state_dict()

    whole = trained(tmp_path / "whole", None)
    resumed = trained(tmp_path / "resumed", tmp_path / "whole" / CHECKPOINT)
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []


@pytest.mark.parametrize("order", [("first", "later"), ("later", "first")])
def test_what_one_window_frees_another_may_freeze(order: tuple[str, str]) -> None:
    target = "sparsekit.modifiers.trainable.TrainableParams"
    both = {
        "first": {"_target_": target, "params": "re:0.*", "trainable": False, "end": 1.0},
        "later": {"_target_": target, "params": ["0.bias"], "trainable": False, "start": 1.0},
    }
    recipe = Recipe.build({"num_epochs": 3, "modifiers": {name: both[name] for name in order}})
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    recipe.attach(model)
    for epoch, trained in ((0.0, []), (1.0, ["0.weight"]), (0.5, [])):
        recipe.update(epoch)
        found = [n for n, p in model.named_parameters() if p.requires_grad]
        assert found == [*trained, "1.weight", "1.bias"]


def test_a_recipe_that_leaves_nothing_to_train() -> None:
    node = {"_target_": "sparsekit.modifiers.trainable.TrainableParams", "trainable": False}
    nodes = {
        "all": {**node, "params": "__ALL__", "start": 1.0, "end": 2.0},
        "weights": {**node, "params": "__ALL_PRUNABLE__", "end": 1.0},
    }
    recipe = Recipe.build({"num_epochs": 3, "modifiers": nodes})
    with pytest.raises(ConfigError, match=r"modifiers\.all leaves nothing to train at epoch 1:"):
        recipe.attach(torch.nn.Linear(2, 2))


def test_the_list_names_every_modifier() -> None:
    [folder] = sparsekit.modifiers.__path__
    bases = {
        "base",
        "epochs",
        "loss_mean",
        "processes",
        "distillation.live",
        "distillation.pairing",
        "distillation.recording",
        "pruning.curves",
        "pruning.masked",
        "pruning.gradual",
    }
    parts = ("attention", "fake_quantize", "observation", "observers", "overrides", "rounding")
    bases |= {f"quantization.{part}" for part in (*parts, "scales", "scheme")}
    files = [p.relative_to(folder).with_suffix("") for p in Path(folder).rglob("*.py")]
    modules = {".".join(path.parts) for path in files if path.name != "__init__"}
    assert {setting.target.rpartition(".")[0] for setting in SETTINGS} == modules - bases
