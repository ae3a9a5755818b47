"""Every modifier trains, resumes in the middle of its window to the last bit, keeps its word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from modifier_settings import EPOCHS, LAYERS, SETTINGS, Setting, every_modifier
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
    planned_zeros_are_there(setting, recipe, model)
    resumed, _, _ = run(setting, start, tmp_path / "resumed", rows, tmp_path / "whole" / CHECKPOINT)
    state = resumed.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0, msg=name)


def planned_zeros_are_there(setting: Setting, recipe: Recipe, model: PreTrainedModel) -> None:
    """As `sparsekit verify` asks of the saved weights; and no longer once a tenth is filled."""
    plans = recipe.planned_zeros(model, EPOCHS)
    assert bool(plans) == setting.plans_zeros
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    assert [plan.missing(weights) for plan in plans] == [None] * len(plans)
    for plan in plans:
        for name in plan.names:
            filled = torch.rand(weights[name].shape, generator=torch.Generator().manual_seed(1))
            # Those of a constant mask are known to be a hundredth at least.
            weights[name][filled > (0.9 if plan.share > 0.01 else 0.0)] = 1.0
        assert "the recipe plans" in str(plan.missing(weights))


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
    nodes = {name: node(by_name[name]) for name in names}
    assert differences_of_resumed(nodes, teacher_folder, tmp_path, rows) == []


def differences_of_resumed(
    nodes: dict[str, Any], checkpoint: str, tmp_path: Path, rows: Rows
) -> list[str]:
    """What a run that is resumed at STOP ends with other values of than an unbroken one."""

    def trained(folder: Path, resume: Path | None) -> Any:
        student = load_student(checkpoint)
        recipe = Recipe.build({"num_epochs": EPOCHS, "modifiers": nodes})
        assert recipe.problems() == []
        recipe.use_teacher(lambda: other_model(checkpoint))
        training = trainer(
            folder, student, rows, recipe, [], save_strategy="steps", save_steps=STOP, seed=5
        )
        training.train(resume_from_checkpoint=None if resume is None else str(resume))
        return student.model.state_dict()

    whole = trained(tmp_path / "whole", None)
    resumed = trained(tmp_path / "resumed", tmp_path / "whole" / CHECKPOINT)
    assert whole.keys() == resumed.keys()
    return [name for name, value in whole.items() if not torch.equal(value, resumed[name])]


def masking(name: str, target: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return name, {"_target_": f"sparsekit.modifiers.pruning.{target}", **fields}


def magnitude(name: str, final: float, **fields: Any) -> tuple[str, dict[str, Any]]:
    fields |= {"params": [LAYERS], "init_sparsity": "__FROM_PARAM__", "update_frequency": 0.25}
    return masking(name, "magnitude.MagnitudePruning", final_sparsity=final, **fields)


STRUCTURES = {"heads": 0.5, "neurons": 0.5, "method": "magnitude"}


@pytest.mark.parametrize(
    "nodes",
    [
        # In each the last modifier makes zeros, or lets go of some, that the first does not mask.
        [
            masking("structured", "structured.StructuredPruning", end=1.0, **STRUCTURES),
            masking("constant", "constant.ConstantPruning", end=2.0),
        ],
        [
            masking("constant", "constant.ConstantPruning", params=[LAYERS], start=0.5),
            magnitude("let go", 0.98, end=2.0, leave_enabled=False),
        ],
        [
            magnitude("gradual", 0.93, end=0.75),
            magnitude("let go", 0.98, start=1.0, end=2.0, leave_enabled=False),
        ],
        [
            masking(
                "acdc",
                "acdc.ACDCPruning",
                start=0.0,
                end=1.0,
                update_frequency=0.5,
                compression_sparsity=0.93,
                params=[LAYERS],
            ),
            masking(
                "structured",
                "structured.StructuredPruning",
                start=1.0,
                end=2.5,
                update_frequency=0.375,
                **STRUCTURES,
            ),
        ],
    ],
    ids=lambda nodes: " + ".join(name for name, _ in nodes),
)
def test_a_resumed_modifier_masks_what_it_masked_before(
    nodes: list[tuple[str, dict[str, Any]]], student_folder: str, tmp_path: Path, rows: Rows
) -> None:
    assert differences_of_resumed(dict(nodes), student_folder, tmp_path, rows) == []


@every_modifier
def test_two_of_a_kind_train_one_after_the_other_or_are_refused(
    setting: Setting, student_folder: str, teacher_folder: str, tmp_path: Path, rows: Rows
) -> None:
    """Neither uses what the other added to the model, and both remove what they added."""
    fields = {k: v for k, v in setting.fields.items() if k != "disable_observer_epoch"}
    if "init_sparsity" in fields:
        fields["init_sparsity"] = "__FROM_PARAM__"
    target = f"sparsekit.modifiers.{setting.target}"
    # Phases of AC/DC, half an epoch each, end with a pruned one.
    windows = {"first": (0.0, 1.0), "second": (1.0, 2.0 if setting.name == "acdc" else 2.5)}
    nodes = {
        name: {"_target_": target, **fields, "start": start, "end": end}
        for name, (start, end) in windows.items()
    }
    if setting.name == "set rate":
        del nodes["first"]["end"], nodes["second"]["end"]  # it ends where another one starts
    recipe = Recipe.build({"num_epochs": EPOCHS, "modifiers": nodes})
    if problems := recipe.problems():
        assert any("modifiers.first and recipe.modifiers.second" in text for text in problems)
        return
    checkpoint = teacher_folder if setting.dense_student else student_folder
    recipe.use_teacher(lambda: other_model(checkpoint))
    student = load_student(checkpoint)
    before = set(student.model.state_dict())
    trainer(tmp_path, student, rows, recipe, [], max_steps=6).train()
    added = set(student.model.state_dict()) - before
    assert not [name for name in added if "quantizer" not in name]


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
        "names",
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
