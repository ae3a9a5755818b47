"""Recipes converted from SparseML's form to ours and back, against SparseML's recorded outputs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from launching import local, run_here
from omegaconf import OmegaConf
from project import CONF
from sparseml_text import RECIPE, STYLES, loaded, of_text, resolved

from sparsekit.config.plain import plain
from sparsekit.errors import ConfigError
from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.recipe import schedule
from sparsekit.recipe.recipe import Recipe
from sparsekit.sparseml.recipes.document import parse, read
from sparsekit.sparseml.recipes.load import load
from sparsekit.sparseml.recipes.mapping import MODIFIERS
from sparsekit.sparseml.recipes.native import native
from sparsekit.sparseml.recipes.write import to_sparseml


@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.stem)
def test_every_style_converts(path: Path) -> None:
    assert len(STYLES) == 9
    node = native(read(path), str(path))
    # What the launcher reads from the converted file is what it reads from SparseML's.
    text = yaml.safe_dump(node, sort_keys=False)
    again = plain(OmegaConf.create({"recipe": OmegaConf.create(text)}))["recipe"]
    assert again == load(str(path), {})
    for modifier in again["modifiers"].values():
        assert modifier["_target_"] in {mapped.target for mapped in MODIFIERS.values()}


def back_and_forth(values: dict[str, Any]) -> dict[str, Any]:
    """A native recipe converted to SparseML's form and back."""
    settled = resolved(values)
    text = to_sparseml(values, settled, Recipe.build(settled).modifiers)
    return of_text(text)


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The built modifiers, so that a field at its default equals one that is absent."""
    first, second = Recipe.build(one), Recipe.build(other)
    assert first.num_epochs == second.num_epochs
    kinds = sorted(map(repr, (ended(m, first) for m in first.modifiers.values())))
    assert kinds == sorted(map(repr, (ended(m, second) for m in second.modifiers.values())))


def ended(modifier: Modifier, recipe: Recipe) -> Modifier:
    end = recipe.num_epochs if modifier.end is None else modifier.end
    return dataclasses.replace(modifier, start=float(modifier.start), end=float(end))


@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.stem)
def test_a_sparseml_recipe_survives_a_round_trip(path: Path) -> None:
    node = native(read(path), str(path))
    same(back_and_forth(node), resolved(node))


@pytest.mark.parametrize("name", ["dense", "pruned90", "pruned90_quant", "gradual90_quant"])
def test_a_native_recipe_survives_a_round_trip(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(overrides=[f"+recipe@recipe={name}"])
    written = OmegaConf.to_container(cfg.recipe)
    assert isinstance(written, dict)
    back = back_and_forth({str(key): value for key, value in written.items()})
    same(back, plain(cfg)["recipe"])
    # Variables stay variables: what depends on one still moves with it.
    assert back.keys() - {"modifiers"} == written.keys() - {"modifiers"}


def test_expressions_stay_expressions() -> None:
    node = native(parse(RECIPE, "recipe.yaml"), "recipe.yaml")
    settled = resolved(node)
    text = to_sparseml(node, settled, Recipe.build(settled).modifiers)
    assert "qat_start: eval(num_epochs - 2)" in text
    assert "init_lr: eval(lr)" in text
    assert native(parse(text, "back"), "back")["qat_start"] == node["qat_start"]


@pytest.mark.parametrize(
    ("fields", "there", "not_there"),
    [
        ({"submodules": ["classifier"]}, "submodules:\n  - classifier\n", "ignore"),
        ({}, "submodules: null\n", "ignore"),
        ({"scheme": "default"}, "scheme: default\n", "submodules"),
        ({"ignore": ["classifier"]}, "ignore:\n  - classifier\n", "quantize_linear"),
    ],
)
def test_quantization_is_written_in_one_form(
    fields: dict[str, Any], there: str, not_there: str
) -> None:
    node = {"_target_": MODIFIERS["QuantizationModifier"].target, **fields}
    values = {"num_epochs": 2, "modifiers": {"quantization": node}}
    recipe = Recipe.build(values)
    text = to_sparseml(values, values, recipe.modifiers)
    assert there in text
    assert not_there not in text
    assert of_text(text)["modifiers"]["quantization"].items() >= fields.items()


def test_what_sparseml_does_not_support() -> None:
    quantization = {
        "_target_": "sparsekit.modifiers.quantization.qat.Quantization",
        "per_channel_weights": True,
        "end": 1,
    }
    with pytest.raises(ConfigError, match=r"modifiers\.q: QuantizationModifier has no end"):
        back_and_forth({"num_epochs": 2, "modifiers": {"q": quantization}})
    # The end of training is none: SparseML's quantization lasts to it.
    for end in (2, None):
        quantization["end"] = end
        with pytest.raises(ConfigError, match="no field for per_channel_weights: True"):
            back_and_forth({"num_epochs": 2, "modifiers": {"q": quantization}})


@pytest.mark.parametrize("case", range(7))
def test_learning_rates_of_recorded_recipes(
    golden: dict[str, Any], tmp_path: Path, case: int
) -> None:
    recorded = golden["learning_rate"][case]
    assert len(golden["learning_rate"]) == 7
    recipe = Recipe.build(loaded(recorded["recipe"], tmp_path))
    assert recipe.num_epochs == recorded["epochs"]
    rows = schedule.steps(recipe, recorded["steps_per_epoch"])
    # The recorded optimizer started with 0.123: where it still has it, nothing was set.
    rates = [0.123 if row["lr"] is None else row["lr"] for row in rows]
    assert rates == pytest.approx(recorded["lr"], abs=1e-7)


@pytest.mark.parametrize("case", range(7))
def test_planned_sparsity_of_recorded_recipes(
    golden: dict[str, Any], tmp_path: Path, case: int
) -> None:
    recorded = golden["gradual_pruning"][case]
    assert len(golden["gradual_pruning"]) == 7
    recipe = Recipe.build(loaded(recorded["recipe"], tmp_path))
    rows = schedule.steps(recipe, recorded["steps_per_epoch"])
    assert len(rows) == len(recorded["sparsity_by_epoch_a_b"])
    if "Global" in recorded["recipe"]:
        # Each of the two weights has its own share; its recorded end is compared elsewhere.
        assert rows[-1]["sparsity"] == {"pruning": pytest.approx(0.7)}
        return
    for row, (epoch, share, _) in zip(rows, recorded["sparsity_by_epoch_a_b"], strict=True):
        assert row["epoch"] == pytest.approx(epoch)
        # SparseML skips an update that falls on a rounded multiple of its frequency (epoch 0.6).
        planned = [near["sparsity"]["pruning"] for near in rows[max(0, row["step"] - 1) :][:2]]
        assert min(abs(plan - share) for plan in planned) < 0.003


# The recipe of question answering needs data of that task.
CLASSIFY = [path for path in STYLES if path.stem != "qa_obert"]


@pytest.mark.slow
@pytest.mark.parametrize("path", CLASSIFY, ids=lambda path: path.stem)
def test_a_style_runs_end_to_end(
    path: Path,
    csv_files: dict[str, str],
    student_folder: str,
    teacher_folder: str,
    tmp_path: Path,
) -> None:
    """On a few reviews and a tiny model, in a few steps."""
    held = path.stem in ("transfer_qat", "ner_transfer")
    summary = run_here(
        tmp_path,
        *local(csv_files, student_folder if held else teacher_folder),
        f"teacher={'self' if 'DistillationModifier' in path.read_text() else 'none'}",
        "student.sparsity=null",
        "training.max_steps=24",
        "recipe=sparseml",
        f"recipe.path={path}",
    )
    assert summary["status"] == "completed"
    assert summary["train"]["steps"] == 24
    assert summary["export"]["verified"] is True
    saved = Recipe.load(tmp_path / "model" / "recipe.yaml")
    reached = {"held": 0.9} if held else {}
    for row in schedule.steps(saved, 10):
        reached |= {name: share for name, share in row["sparsity"].items() if share is not None}
    assert min(reached.values()) - 0.01 <= summary["sparsity"]["overall"]
    assert summary["sparsity"]["overall"] <= max(reached.values()) + 0.01
    quantized = any(isinstance(m, Quantization) for m in saved.modifiers.values())
    assert bool(summary["quantization"]["modules"]) == quantized


def test_the_documentation_names_every_modifier_and_field() -> None:
    lines = (CONF.parent / "docs" / "reference" / "sparseml-recipes.md").read_text().splitlines()
    rows = {kind: [x for x in lines if x.startswith(f"| `{kind}`")] for kind in MODIFIERS}
    # What holds of all modifiers is said outside of the table.
    prose = " ".join(line for line in lines if not line.startswith("| `"))
    assert len(MODIFIERS) == 16
    for kind, mapped in MODIFIERS.items():
        text = " ".join(rows[kind])
        assert mapped.target.removeprefix("sparsekit.modifiers.") in text, kind
        # "as `MagnitudePruningModifier`": the fields of its row too.
        for other in re.findall(r"as (?:for )?`(\w+)`", text):
            text += " ".join(rows.get(other, []))
        text += prose
        for name in mapped.known:
            assert f"`{name}`" in text or f"`{name}: " in text, (kind, name)
