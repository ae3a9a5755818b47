"""Arithmetic in configs, strict building, and hashes."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from sparsekit.config.build import build
from sparsekit.config.identity import config_hash
from sparsekit.config.plain import plain
from sparsekit.config.resolvers import calc
from sparsekit.errors import ConfigError, UserError

PRUNING = "sparsekit.modifiers.pruning.constant.ConstantPruning"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("13 - 5", 8),
        ("2.5 * 2", 5.0),
        ("-(1 + 2) / 2", -1.5),
        ("7 // 2 + 7 % 2", 4),
        ("max(0, 2 - 5)", 0),
        ("min(1, 0.5 / 2)", 0.25),
        ("0 > 0", False),
        ("5 >= 5", True),
    ],
)
def test_calc(expression: str, value: float) -> None:
    assert calc(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "a + 1",
        "(1).real",
        "[1]",
        "1 if 1 else 2",
        "'a'",
        "1 +",
        "1 / 0",
        "True",
    ],
)
def test_calc_refuses_all_but_arithmetic(expression: str) -> None:
    with pytest.raises(UserError, match="calc cannot evaluate"):
        calc(expression)


def test_calc_in_a_config_follows_overrides() -> None:
    config = OmegaConf.create({"epochs": 3, "qat": 1, "start": "${calc:'${epochs} - ${qat}'}"})
    assert plain(config)["start"] == 2
    config.epochs = 13
    assert plain(config)["start"] == 12


def test_a_missing_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data_files\.train"):
        plain(OmegaConf.create({"data_files": {"train": "???"}}))


def test_an_unknown_field_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.pruning\.parms is not a field .* params"):
        build({"_target_": PRUNING, "parms": "x"}, "recipe.pruning")


def test_an_unknown_field_of_many_suggests_the_nearest() -> None:
    target = "sparsekit.training.arguments.SparseTrainingArguments"
    with pytest.raises(ConfigError, match="did you mean learning_rate"):
        build({"_target_": target, "output_dir": "x", "learning_rat": 1}, "training")


def test_all_problems_are_listed() -> None:
    error = ConfigError(["first", "second"])
    assert str(error) == "2 problems\n- first\n- second"
    assert str(ConfigError(["only"])) == "only"


def test_the_hash_ignores_the_order_of_keys() -> None:
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_required_fields_are_all_named() -> None:
    node = {"_target_": "sparsekit.modifiers.optimizer.LearningRateFunction", "lr_func": "linear"}
    with pytest.raises(ConfigError) as caught:
        build(node, "recipe.modifiers.lr")
    assert caught.value.problems == [
        f"recipe.modifiers.lr lacks {name}, which LearningRateFunction needs: add "
        f"recipe.modifiers.lr.{name}"
        for name in ("init_lr", "final_lr")
    ]


def test_text_that_looks_like_an_interpolation_stays_as_it_is() -> None:
    """A folder may have such a name; its value is resolved once, in the composed config."""
    values = {"_target_": PRUNING, "params": ["re:${now:%Y}"]}
    assert build(values, "recipe.pruning").params == ["re:${now:%Y}"]


@pytest.mark.parametrize("target", ["no_such_module.Name", "pathlib.NoSuchName", "Name", True])
def test_a_target_that_does_not_exist_is_named(target: object) -> None:
    with pytest.raises(ConfigError, match=r"^part\._target_ "):
        build({"_target_": target}, "part")
