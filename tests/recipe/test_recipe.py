"""A recipe as a whole: built, checked, scheduled, saved and read back."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from project import CONF, GOLDEN
from rich.console import Console
from tiny_bert import tiny_bert
from transformers import BertForSequenceClassification

from sparsekit.config.plain import plain
from sparsekit.errors import ConfigError, UserError
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.recipe import schedule
from sparsekit.recipe.recipe import Recipe

SEED_RECIPE = GOLDEN / "seed_recipe.yaml"


def composed(*overrides: str, recipe: str = "pruned90_quant") -> Recipe:
    """The recipe of that name as the launcher composes it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        choices = [f"recipe={recipe}", "dataset=rotten_tomatoes", *overrides]
        return Recipe.build(plain(compose("config", choices).recipe))


def printed(recipe: Recipe, steps: int) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(schedule.table(recipe, steps))
    return console.export_text()


def small_bert(zeros: bool = True) -> BertForSequenceClassification:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_bert())
    if zeros:
        with torch.no_grad():
            weight = model.bert.encoder.layer[0].intermediate.dense.weight
            weight[weight.abs() < weight.abs().median()] = 0
    return model


def test_the_seed_recipe_has_the_values_of_the_file_it_comes_from() -> None:
    seed = {
        line.split(":")[0]: line.split(":")[1].split()[-1]
        for line in SEED_RECIPE.read_text().splitlines()
        if ":" in line and not line.startswith((" ", "#", "version")) and line.split(":")[1].strip()
    }
    recipe = composed()
    ours = recipe.values
    pairs = {
        "num_epochs": "num_epochs",
        "init_lr": "init_lr",
        "final_lr": "final_lr",
        "qat_start_epoch": "qat_start_epoch",
        "observer_epoch": "observer_epoch",
        "quantize_embeddings": "quantize_embeddings",
        "distill_hardness": "distill_hardness",
        "distill_temperature": "distill_temperature",
        "weight_decay": "weight_decay",
    }
    assert pairs.keys() == seed.keys()
    for key, name in pairs.items():
        assert float(ours[name]) == float(seed[key]), key
    tagged = SEED_RECIPE.read_text()
    recipe.attach(small_bert())
    named = tuple(re.findall(r"^ +- ((?:bert\.|classifier)\S*)$", tagged, re.MULTILINE))
    assert named
    assert recipe.quantized_modules
    assert all(module.startswith(named) for module in recipe.quantized_modules)


def test_windows_move_with_the_number_of_epochs() -> None:
    recipe = composed("recipe.num_epochs=3", "recipe.qat_epochs=1")
    quantization = recipe.modifiers["quantization"]
    assert (quantization.start, quantization.disable_observer_epoch) == (2, 2.5)
    assert recipe.problems() == []


def test_no_qat_epochs_means_no_quantization() -> None:
    recipe = composed("recipe.qat_epochs=0")
    assert "quantization" not in recipe.modifiers
    assert recipe.problems() == []


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["recipe.qat_epochs=20"],
            r"start -7 lies before epoch 0.*recipe\.qat_epochs \(now 20\), set that to at most 13",
        ),
        (
            ["recipe.num_epochs=3", "recipe.qat_start_epoch=8", "recipe.observer_epoch=9"],
            "starts at epoch 8 but .* ends at 3",
        ),
        (["recipe.distill_hardness=2"], "hardness 2 lies outside"),
        (["+recipe.modifiers.learning_rate.end=20"], "ends at epoch 20 but training ends at 13"),
        (["recipe.observer_epoch=8"], "no range would ever be observed"),
    ],
)
def test_fields_out_of_range_are_one_problem_each(overrides: list[str], problem: str) -> None:
    problems = composed(*overrides).problems()
    assert len(problems) == 1 and re.search(problem, problems[0]), problems


def test_all_problems_come_together() -> None:
    recipe = composed("recipe.qat_epochs=20", "recipe.distill_temperature=0", "recipe.init_lr=-1")
    assert len(recipe.problems()) == 3


def test_without_a_teacher_the_loss_is_the_tasks_alone() -> None:
    recipe = composed().for_teacher(has_teacher=False)
    assert "distillation" not in recipe.modifiers
    assert not recipe.uses_teacher("logits")
    rows = {row["name"]: row for row in schedule.windows(recipe, 130)}
    assert rows["distillation"]["note"] == "off: no teacher, the task's loss alone"
    assert [name for name, row in rows.items() if row.get("off")] == ["distillation"]
    assert [name for name, row in rows.items() if "note" in row] == ["distillation"]
    assert "off: no teacher" in printed(recipe, 130)
    loss = torch.tensor(3.0)
    assert recipe.loss(loss, {}, None) is loss


def test_a_teacher_that_no_modifier_takes_is_refused() -> None:
    recipe = composed("~recipe.modifiers.distillation")
    with pytest.raises(ConfigError, match=r"no modifier that distils.* set teacher=none"):
        recipe.for_teacher(has_teacher=True)
    assert recipe.for_teacher(has_teacher=False).without_teacher == {}


def test_a_hardness_of_0_is_a_value_like_any_other() -> None:
    recipe = composed("recipe.distill_hardness=0").for_teacher(has_teacher=True)
    assert "distillation" in recipe.modifiers
    assert not recipe.uses_teacher("logits")


def test_two_learning_rates_at_once_are_refused() -> None:
    second = (
        "{_target_: sparsekit.modifiers.optimizer.LearningRateFunction, init_lr: 1, final_lr: 0}"
    )
    recipe = composed(f"+recipe.modifiers.second={second}")
    (problem,) = recipe.problems()
    assert "learning_rate and recipe.modifiers.second" in problem


def test_two_quantizations_are_refused() -> None:
    """No windows would help: none of them ends."""
    second = "{_target_: sparsekit.modifiers.quantization.qat.Quantization, start: 12, end: 13}"
    (problem,) = composed(f"+recipe.modifiers.second={second}").problems()
    assert "quantization and recipe.modifiers.second are both Quantization at epoch 12" in problem
    assert "make one of them" in problem


def test_a_modifier_can_be_removed_or_disabled() -> None:
    assert "quantization" not in composed("~recipe.modifiers.quantization").modifiers
    assert "pruning" not in composed("+recipe.modifiers.pruning.enabled=false").modifiers


def test_unknown_fields_and_targets_are_all_named() -> None:
    node = {"_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning", "parms": "x"}
    with pytest.raises(ConfigError) as caught:
        Recipe.build({"num_epochs": 0, "modifiers": {"a": node, "b": {"start": 1}}})
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="no_such"):
        Recipe.build({"num_epochs": 1, "modifiers": {"a": {"_target_": "sparsekit.no_such"}}})


def test_attach_collects_problems_of_every_modifier() -> None:
    recipe = composed("+recipe.modifiers.quantization.submodules=[bert.adapter]")
    model = small_bert(zeros=False)
    with pytest.raises(ConfigError) as caught:
        recipe.attach(model)
    text = str(caught.value)
    assert "recipe.modifiers.pruning" in text
    assert "'bert.adapter'" in text


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [
        (0, "0"),
        (-1, "-1"),
        (1e12, "1000000000000.0"),
        (math.inf, "inf"),
        (True, "True"),
        (10**90, r"10+\.\.\.0+"),
    ],
)
def test_epochs_that_no_run_has(epochs: float, shown: str) -> None:
    with pytest.raises(ConfigError, match=f"num_epochs is {shown}.*; set a number above 0, 10000"):
        Recipe.build({"num_epochs": epochs, "modifiers": {}})


def test_the_schedule_in_steps() -> None:
    recipe = composed("recipe.num_epochs=3", "recipe.qat_epochs=1", "recipe.init_lr=0.3")
    windows = {row["name"]: row for row in schedule.windows(recipe, 30)}
    assert (windows["quantization"]["start_step"], windows["quantization"]["end_step"]) == (20, 30)
    steps = schedule.steps(recipe, 10)
    assert len(steps) == 30
    assert steps[0]["lr"] == pytest.approx(0.3)
    assert steps[15]["lr"] == pytest.approx(0.15)
    assert "quantization" not in steps[19]["active"]
    assert "quantization" in steps[20]["active"]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 12, 20, 100])
@pytest.mark.parametrize("epochs", ["0.01", "0.1", "0.5", "1", "2", "12"])
def test_a_quantization_that_no_step_sees(steps: int, epochs: str) -> None:
    recipe = composed(f"recipe.qat_epochs={epochs}")
    quantization = recipe.modifiers["quantization"]
    assert isinstance(quantization, Quantization)
    quantization.submodules = []
    quantization.attach(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    seen = []
    for step in range(steps):
        quantization.update(step / steps * 13)
        seen.append(quantization.observing)
    problems = recipe.step_problems(steps)
    assert bool(problems) == (not any(seen))
    for problem in problems:
        # Both ways out that it names lead out.
        ways = re.search(r"train (\d+) steps .*qat_epochs=([\d.]+)\), or", problem)
        assert ways is not None
        enough, longer = int(ways[1]), ways[2]
        assert enough > steps
        assert recipe.step_problems(enough) == []
        assert composed(f"recipe.qat_epochs={longer}").step_problems(steps) == []


def test_what_has_a_problem_of_its_own_gets_no_second() -> None:
    for change in ("recipe.observer_epoch=8", "recipe.qat_epochs=20", "recipe.qat_epochs=0"):
        assert composed(change).step_problems(1) == []


def test_fractions_of_an_epoch_end_on_the_right_step() -> None:
    recipe = composed("recipe.num_epochs=2.5", "recipe.qat_epochs=0.3")
    (row,) = [r for r in schedule.windows(recipe, 25) if r["name"] == "quantization"]
    assert (row["start_step"], row["end_step"]) == (22, 25)


def test_a_saved_recipe_is_the_recipe(tmp_path: Path) -> None:
    recipe = composed("recipe.num_epochs=3", "recipe.qat_epochs=1")
    recipe.save(tmp_path / "recipe.yaml", {"precision": "fp32"})
    again = Recipe.load(tmp_path / "recipe.yaml")
    assert again.modifiers == recipe.modifiers
    assert again.num_epochs == 3
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["metadata"]["precision"] == "fp32"


def test_a_native_file_loads_with_its_interpolations() -> None:
    recipe = Recipe.load(CONF / "recipe" / "pruned90.yaml")
    assert recipe.modifiers["learning_rate"].init_lr == 1.5e-4


@pytest.mark.parametrize("text", ["a: [", "just text", "modifiers: {}"])
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        Recipe.load(path)


def test_a_recipe_without_modifiers_is_native_text() -> None:
    """Not SparseML's, whose modifiers are a list."""
    recipe = Recipe.from_text("num_epochs: 3\nmodifiers: {}\n")
    assert recipe.num_epochs == 3
    assert recipe.modifiers == {}


def test_update_has_no_memory() -> None:
    def switches(recipe: Recipe, epochs: list[float]) -> list[Any]:
        model = small_bert()
        recipe.attach(model)
        for epoch in epochs:
            recipe.update(epoch)
        return [m.enabled for m in model.modules() if hasattr(m, "observing")]

    assert switches(composed(), [0, 9, 12.5, 3, 9]) == switches(composed(), [9])


@pytest.mark.parametrize(
    ("epochs", "steps", "title"), [(1, 1, "1 epoch, 1 step"), (6, 1128, "6 epochs, 1128 steps")]
)
def test_the_tables_title_counts(epochs: int, steps: int, title: str) -> None:
    recipe = composed(f"recipe.num_epochs={epochs}", "recipe.qat_epochs=1")
    assert schedule.table(recipe, steps).title == f"Schedule: {title}"


def test_a_training_shorter_than_a_step_has_one() -> None:
    recipe = Recipe.build({"num_epochs": 0.4, "modifiers": {}})
    assert [row["step"] for row in schedule.steps(recipe, 1)] == [0]
    assert schedule.epochs(recipe, 1).row_count == 2


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("optimizer.SetLearningRate", {"learning_rate": math.inf}),
        ("optimizer.SetWeightDecay", {"weight_decay": math.inf}),
        ("optimizer.SetWeightDecay", {"weight_decay": 0.1, "start": math.nan}),
        ("distillation.logits.Distillation", {"hardness": 0.5, "temperature": math.inf}),
        ("distillation.attention.AttentionDistillation", {"gain": math.inf}),
    ],
)
def test_numbers_of_modifiers_are_finite(target: str, fields: dict[str, float]) -> None:
    node = {"_target_": f"sparsekit.modifiers.{target}", **fields}
    with pytest.raises(ConfigError, match=r"modifiers\.a\.\w+ is (inf|nan); it must be .*finite"):
        Recipe.build({"num_epochs": 1, "modifiers": {"a": node}})
