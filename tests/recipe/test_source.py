"""Recipes from a file, text or mapping, with variables set by keyword."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from project import CONF

from sparsekit.errors import ConfigError, UserError
from sparsekit.recipe.recipe import Recipe
from sparsekit.sparseml.recipes.load import is_sparseml_text

SPARSEML = Path(__file__).parents[1] / "sparseml_recipes" / "transfer_qat.yaml"
NATIVE = CONF / "recipe" / "pruned90.yaml"
BUILT_ON_ANOTHER = CONF / "recipe" / "pruned90_quant.yaml"


def test_a_native_file() -> None:
    recipe = Recipe.from_file(NATIVE)
    assert recipe.num_epochs == 13
    assert recipe.modifiers["learning_rate"].init_lr == 1.5e-4


def test_a_file_that_builds_on_another() -> None:
    recipe = Recipe.from_file(str(BUILT_ON_ANOTHER))
    assert "quantization" in recipe.modifiers
    assert "pruning" in recipe.modifiers


def test_a_recipe_of_ours_by_name() -> None:
    assert Recipe.from_file("pruned90_quant") == Recipe.from_file(BUILT_ON_ANOTHER)


def test_a_sparseml_file_and_its_text() -> None:
    recipe = Recipe.from_file(SPARSEML)
    assert Recipe.from_text(SPARSEML.read_text()) == recipe
    assert recipe.modifiers


def test_a_variable_may_have_the_name_of_a_parameter() -> None:
    text = "num_epochs: 3\nmodifiers: {}\npath: 1\ntext: 1\nvalues: 1\n"
    assert Recipe.from_text(text, text=2).values["text"] == 2
    assert Recipe.from_dict(yaml.safe_load(text), values=2).values["values"] == 2
    with pytest.raises(UserError, match="path"):
        Recipe.from_file("pruned90", path=1)


def test_a_stub_of_sparsezoo(caplog: pytest.LogCaptureFixture) -> None:
    stub = "zoo:nlp/sentiment_analysis/obert-base/pytorch/huggingface/sst2/pruned90_quant-none"
    assert Recipe.from_file(stub) == Recipe.from_file("pruned90_quant")
    assert "recipe pruned90_quant trains the same way" in caplog.text
    with pytest.raises(UserError, match="SparseZoo is closed"):
        Recipe.from_file("zoo:nlp/question_answering/unknown")


def test_native_text_and_a_mapping_are_the_file() -> None:
    recipe = Recipe.from_file(NATIVE)
    assert Recipe.from_text(NATIVE.read_text()) == recipe
    assert Recipe.from_dict(yaml.safe_load(NATIVE.read_text().replace("e-4", "e-04"))) == recipe


def test_a_saved_recipe_is_read_again(tmp_path: Path) -> None:
    recipe = Recipe.from_file("pruned90_quant", num_epochs=8)
    recipe.save(tmp_path / "recipe.yaml", {"seed": 1})
    assert Recipe.from_file(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("source", "as_written", "longer"), [("pruned90_quant", 8, 15), (SPARSEML, 6, 12)]
)
def test_windows_move_with_the_number_of_epochs(
    source: Any, as_written: float, longer: float
) -> None:
    def starts(recipe: Recipe) -> list[float]:
        return [modifier.start for modifier in recipe.modifiers.values() if modifier.start > 0]

    assert starts(Recipe.from_file(source)) == [as_written]
    recipe = Recipe.from_file(source, num_epochs=20)
    assert recipe.num_epochs == 20
    assert starts(recipe) == [longer]


def test_too_few_epochs_for_the_windows_are_an_error_not_a_broken_schedule() -> None:
    with pytest.raises(
        ConfigError,
        match=r"recipe\.qat_epochs.*now 5\), set that to at most 3: recipe\.qat_epochs=1",
    ):
        Recipe.from_file("pruned90_quant", num_epochs=3)
    assert Recipe.from_file("pruned90_quant", num_epochs=3, qat_epochs=1).num_epochs == 3


def test_variables_by_keyword_in_text_and_mapping() -> None:
    text = NATIVE.read_text()
    assert Recipe.from_text(text, init_lr=0.1).modifiers["learning_rate"].init_lr == 0.1
    native = {
        "num_epochs": 4,
        "modifiers": {
            "decay": {
                "_target_": "sparsekit.modifiers.optimizer.SetWeightDecay",
                "weight_decay": 0.1,
                "start": "${calc:'${recipe.num_epochs} / 2'}",
            }
        },
    }
    assert Recipe.from_dict(native).modifiers["decay"].start == 2
    assert Recipe.from_dict(native, num_epochs=6).modifiers["decay"].start == 3
    assert native["num_epochs"] == 4


@pytest.mark.parametrize(
    "modifiers",
    ["{}", "null", "", "{pruning: null}", "\n  pruning: null", "  # A Modifier follows."],
)
def test_a_native_recipe_without_modifiers_is_not_taken_for_sparsemls(modifiers: str) -> None:
    recipe = Recipe.from_text(f"num_epochs: 3\nmodifiers: {modifiers}\n")
    assert recipe.num_epochs == 3 and recipe.modifiers == {}


@pytest.mark.parametrize("written", ["[]", "\n- {}", "\n\n  # first\n  - !EpochRangeModifier {}"])
def test_a_list_of_modifiers_is_sparsemls(written: str) -> None:
    assert is_sparseml_text(f"num_epochs: 3\nmodifiers: {written}\n")


def test_a_variable_that_the_recipe_does_not_have() -> None:
    with pytest.raises(UserError, match="no variable 'epochs'; it has num_epochs, init_lr"):
        Recipe.from_file(NATIVE, epochs=3)
    with pytest.raises(UserError, match="no such variable; it has"):
        Recipe.from_file(SPARSEML, epochs=3)


@pytest.mark.parametrize("name", ["no_such_recipe", "missing.yaml", "folder/missing"])
def test_a_file_that_does_not_exist(name: str) -> None:
    with pytest.raises(UserError, match=name):
        Recipe.from_file(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot read the recipe's text"),
        ("- 1\n- 2", "is not a sparsekit recipe"),
        ("init_lr: 1.0", "no num_epochs"),
        ("defaults: [pruned90]\nnum_epochs: 3", "which only a file can"),
        ("num_epochs: 0", "recipe.num_epochs is 0"),
    ],
)
def test_text_that_is_no_recipe(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe.from_text(text)


def test_a_mapping_that_is_no_recipe() -> None:
    with pytest.raises(UserError, match="no num_epochs"):
        Recipe.from_dict({"modifiers": {}})
    with pytest.raises(UserError, match="cannot read the recipe's mapping"):
        Recipe.from_dict({"num_epochs": 1, "modifiers": object()})
