"""Variables of SparseML's recipes: stages, overrides and their limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparseml_text import RECIPE, loaded

from sparsekit.errors import ConfigError, UserError
from sparsekit.sparseml.recipes.document import parse
from sparsekit.sparseml.recipes.native import native

STAGED = """
rate: 0.1
first_stage:
  num_epochs: 2
  first_modifiers:
    - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(num_epochs)}
    - !SetLearningRateModifier {start_epoch: 0, learning_rate: eval(rate)}
second_stage:
  num_epochs: 5
  rate: eval(num_epochs / 100)
  second_modifiers:
    - !EpochRangeModifier {start_epoch: 2, end_epoch: eval(num_epochs)}
    - !SetLearningRateModifier {start_epoch: 2, learning_rate: eval(rate)}
"""


def test_stages_keep_their_own_variables(tmp_path: Path) -> None:
    values = loaded(STAGED, tmp_path)
    assert values["num_epochs"] == 5
    rates = [node["learning_rate"] for node in values["modifiers"].values()]
    assert rates == [0.1, 0.05]


def test_an_override_reaches_every_stage_that_has_the_variable(tmp_path: Path) -> None:
    values = loaded(STAGED, tmp_path, rate=0.3)
    assert [node["learning_rate"] for node in values["modifiers"].values()] == [0.3, 0.3]


def test_an_override_of_one_stage_only(tmp_path: Path) -> None:
    values = loaded(STAGED, tmp_path, second_stage_num_epochs=7)
    assert values["num_epochs"] == 7
    assert values["modifiers"]["set_learning_rate"]["learning_rate"] == 0.1
    assert values["modifiers"]["set_learning_rate_2"]["learning_rate"] == 0.07
    with pytest.raises(ConfigError, match=r"recipe\.variables\.first_stage_num_epochs > 2"):
        loaded(STAGED, tmp_path, num_epochs=1)


def test_overrides_and_what_depends_on_them(tmp_path: Path) -> None:
    values = loaded(RECIPE, tmp_path, num_epochs=10)
    assert values["num_epochs"] == 10
    assert values["modifiers"]["quantization"]["start"] == 8
    assert values["modifiers"]["learning_rate"]["end"] == 10


def test_an_unknown_override_lists_the_variables(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such variable; it has lr, num_epochs, qat_start"):
        loaded(RECIPE, tmp_path, epochs=3)


def test_overrides_never_lengthen_the_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(RECIPE, tmp_path, num_epochs=3, qat_start=8)
    (problem,) = caught.value.problems
    assert "QuantizationModifier starts at epoch 8 but training ends at 3" in problem
    assert "set recipe.variables.qat_start < 3" in problem
    assert "recipe.variables.num_epochs > 8" in problem


def test_an_override_that_would_not_change_the_length_is_refused(tmp_path: Path) -> None:
    text = RECIPE.replace("end_epoch: eval(num_epochs)", "end_epoch: 6", 1)
    with pytest.raises(ConfigError, match="does not change the training, which ends at epoch 6"):
        loaded(text, tmp_path, num_epochs=3, qat_start=1)


def test_an_override_of_what_only_an_anchor_reads_is_refused(tmp_path: Path) -> None:
    text = RECIPE.replace("lr: 1e-4", "lr: &lr 1e-4").replace("eval(lr)", "*lr")
    assert loaded(text, tmp_path)["modifiers"]["learning_rate"]["init_lr"] == 1e-4
    with pytest.raises(ConfigError, match=r"variables\.lr: no expression uses .* write eval\(lr\)"):
        loaded(text, tmp_path, lr=0.1)


def test_a_variable_num_epochs_that_is_not_the_length(tmp_path: Path) -> None:
    text = RECIPE.replace(
        "EpochRangeModifier {start_epoch: 0, end_epoch: eval(num_epochs)",
        "EpochRangeModifier {start_epoch: 0, end_epoch: eval(num_epochs + 1)",
    )
    values = loaded(text, tmp_path)
    assert values["num_epochs"] == 7
    assert values["modifiers"]["learning_rate"]["end"] == 6
    assert loaded(text, tmp_path, num_epochs=3, qat_start=1)["num_epochs"] == 4
    same = text.replace("eval(num_epochs + 1)", "eval(qat_start + 2)")
    node = native(parse(same, "recipe.yaml"), "recipe.yaml")
    assert node["num_epochs"] == "${calc:'${recipe.qat_start} + 2'}"
    assert node["num_epochs_variable"] == 6
