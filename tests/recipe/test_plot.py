"""What a recipe's picture shows: its lines and bars, read back from the figure."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from project import SPARSEML_RECIPES

from sparsekit.errors import UserError
from sparsekit.recipe.plot import draw, plot
from sparsekit.recipe.recipe import Recipe
from sparsekit.sparseml.recipes.load import load

STYLES = SPARSEML_RECIPES


def figure(name: str, steps_per_epoch: int = 10) -> Figure:
    return draw(Recipe.build(load(str(STYLES / name), {})), steps_per_epoch, name)


def test_the_learning_rate_is_drawn_at_every_step() -> None:
    rate = figure("gradual30.yaml").axes[0]
    (line,) = rate.get_lines()
    epochs, rates = line.get_data()
    assert len(rates) == 300
    assert rates[0] == pytest.approx(5e-4)
    assert rates[149] == pytest.approx(1e-6)
    assert rates[150] == pytest.approx(5e-4)
    assert epochs[150] == 15


def test_every_group_has_a_line_of_sparsity_in_percent() -> None:
    sparsity = figure("gradual30.yaml").axes[1]
    ends = {str(line.get_label()): line.get_ydata()[-1] for line in sparsity.get_lines()}
    assert ends.pop("pruning") == pytest.approx(70)
    assert list(ends.values()) == pytest.approx([80, 80])


def test_every_modifier_has_a_bar_over_its_window() -> None:
    spans = figure("transfer_qat.yaml").axes[2]
    names = [label.get_text() for label in spans.get_yticklabels()]
    bars = dict(zip(names, spans.patches, strict=True))
    quantization = bars["quantization"]
    assert (quantization.get_x(), quantization.get_width()) == (6, 4)
    assert bars["distillation"].get_width() == 10
    assert bars["distillation"].get_facecolor() != quantization.get_facecolor()


def test_one_axis_of_epochs() -> None:
    panels = figure("transfer_qat.yaml").axes
    assert [panel.get_xlim() for panel in panels] == [(0, 10)] * 3


def test_without_gradual_pruning_the_picture_says_so() -> None:
    (text,) = figure("transfer_qat.yaml").axes[1].texts
    assert text.get_text() == "no gradual pruning"
    panels = figure("transfer_qat.yaml")
    panels.draw_without_rendering()
    rate, empty, _ = (panel.get_position().height for panel in panels.axes)
    assert empty < rate / 3


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    recipe = Recipe.build(load(str(STYLES / "transfer_qat.yaml"), {}))
    with pytest.raises(UserError, match=r"sparsekit\[plot\]"):
        plot(recipe, 5, tmp_path / "x.png", "x")


def test_modifiers_that_are_off_without_a_teacher_have_pale_bars() -> None:
    recipe = Recipe.build(load(str(STYLES / "transfer_qat.yaml"), {})).for_teacher(False)
    spans = draw(recipe, 10, "without a teacher").axes[2]
    names = [label.get_text() for label in spans.get_yticklabels()]
    bars = dict(zip(names, spans.patches, strict=True))
    assert (bars["distillation"].get_alpha(), bars["quantization"].get_alpha()) == (0.3, 1.0)
