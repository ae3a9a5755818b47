"""SparseML's recipe files: read as they are, overridden, converted there and back."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SHARED
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from sparsekit import schedule
from sparsekit.config import ConfigError, UserError, calc, plain
from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.quantization import Quantization
from sparsekit.recipe import Recipe
from sparsekit.sparseml_recipes import expressions
from sparsekit.sparseml_recipes.document import parse, read
from sparsekit.sparseml_recipes.load import is_sparseml, load
from sparsekit.sparseml_recipes.mapping import MODIFIERS
from sparsekit.sparseml_recipes.native import native
from sparsekit.sparseml_recipes.write import to_sparseml

CONF = Path(__file__).resolve().parents[1] / "conf"
STYLES = sorted((Path(__file__).parent / "sparseml_recipes").glob("*.*"))
SEED_RECIPE = SHARED / "peers" / "seed_recipe.yaml"
VARIABLES = {"a": 3, "b": 0.25, "epochs": 13, "down": -2}

RECIPE = """
num_epochs: 6
qat_start: eval(num_epochs - 2)
lr: 1e-4
modifiers:
  - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(num_epochs)}
  - !LearningRateFunctionModifier
      {start_epoch: 0, end_epoch: eval(num_epochs), lr_func: linear, init_lr: eval(lr), final_lr: 0}
  - !QuantizationModifier
      start_epoch: eval(qat_start)
      submodules: [bert.encoder]
"""


# Nine lists, each of nine aliases of the one before: a few bytes that stand for 9**9 values.
LAUGHS = "a0: &a0 [1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


def loaded(text: str, path: Path, **variables: Any) -> dict[str, Any]:
    """What the launcher makes of a recipe of that text."""
    file = path / "recipe.yaml"
    file.write_text(textwrap.dedent(text))
    return load(str(file), variables)


def of_text(text: str) -> dict[str, Any]:
    return resolved(native(parse(textwrap.dedent(text), "recipe.yaml"), "recipe.yaml"))


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    return plain(OmegaConf.create({"recipe": node}))["recipe"]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["dataset=quickstart", "recipe=sparseml", *overrides])


# --- expressions


def expression_texts() -> st.SearchStrategy[str]:
    numbers = st.one_of(st.integers(0, 99).map(str), st.floats(0, 99, width=16).map(repr))
    leaves = st.one_of(numbers, st.sampled_from(sorted(VARIABLES)))

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        operator = st.sampled_from(["+", "-", "*", "/", "//", "%", "**"])
        return st.one_of(
            st.builds(lambda left, op, right: f"({left} {op} {right})", inner, operator, inner),
            st.builds(lambda left, op, right: f"{left} {op} {right}", inner, operator, inner),
            inner.map(lambda value: f"-{value}"),
            st.builds(lambda name, one, two: f"{name}({one}, {two})",
                      st.sampled_from(["min", "max"]), inner, inner),
        )  # fmt: skip

    return st.recursive(leaves, larger, max_leaves=6)


def python_value(text: str) -> Any:
    """What Python itself makes of it; None where there is no finite real number."""
    try:
        value = eval(text, {"__builtins__": {"min": min, "max": max}}, dict(VARIABLES))
        return float(value) if math.isfinite(value) else None
    except (ArithmeticError, TypeError, ValueError):
        return None


@given(expression_texts())
def test_an_expression_has_the_value_that_python_gives_it(text: str) -> None:
    wanted = python_value(text)
    if wanted is None:
        with pytest.raises(UserError):
            expressions.evaluate(text, VARIABLES)
    else:
        assert expressions.evaluate(text, VARIABLES) == pytest.approx(wanted)


@given(expression_texts())
def test_an_expression_means_the_same_in_a_native_recipe(text: str) -> None:
    if python_value(text) is None:
        return
    written = expressions.interpolation(text)
    found = resolved({**VARIABLES, "x": written})["x"]
    assert found == pytest.approx(expressions.evaluate(text, VARIABLES))
    back = expressions.from_interpolation(written)
    assert back is not None
    assert expressions.evaluate(back, VARIABLES) == pytest.approx(found)


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_users_error(text: str) -> None:
    try:
        value = expressions.evaluate(text, VARIABLES)
    except UserError:
        return
    assert isinstance(value, int | float)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('x')",
        "a.real",
        "a[0]",
        "(lambda: 1)()",
        "min.__call__(1, 2)",
        "[x for x in (1, 2)]",
        "a if a else b",
        "a and b",
        "'text'",
        "f'{a}'",
        "(a := 1)",
        "9 ** 9 ** 9 ** 9",
        "max(*a)",
        "1j",
    ],
)
def test_nothing_but_arithmetic_is_evaluated(text: str) -> None:
    with pytest.raises(UserError, match=r"eval|calc"):
        expressions.evaluate(text, VARIABLES)


def test_a_refused_call_or_attribute_is_named() -> None:
    with pytest.raises(UserError, match=r"refused: __import__ is neither .* arithmetic"):
        expressions.evaluate("__import__('os')", {})
    with pytest.raises(UserError, match=r"refused: a\.real"):
        expressions.evaluate("a.real + 1", VARIABLES)


def test_variables_resolve_in_any_order() -> None:
    values = expressions.resolve({"a": "eval(b * 2)", "b": "eval(c - 1)", "c": 4, "s": "linear"})
    assert values == {"a": 6, "b": 3, "c": 4, "s": "linear"}


def test_a_cycle_is_named() -> None:
    with pytest.raises(UserError, match="b -> c -> b"):
        expressions.resolve({"a": "eval(b)", "b": "eval(c + 1)", "c": "eval(b)"})


def test_an_unknown_variable_lists_the_known() -> None:
    with pytest.raises(UserError, match="no variable 'epoch'; there are a, b, down, epochs"):
        expressions.evaluate("epoch - 1", VARIABLES)


def test_arithmetic_over_text_is_refused() -> None:
    with pytest.raises(UserError, match="'s' is 'linear'"):
        expressions.evaluate("s + 1", {"s": "linear"})


def test_eval_among_other_text_is_refused() -> None:
    with pytest.raises(UserError, match="whole value"):
        expressions.expression("layer.eval(i).weight")


# --- files


def test_the_seed_recipe_is_the_native_one() -> None:
    """`recipe=pruned90_quant` was written after this file: the same modifiers and values."""
    if not SEED_RECIPE.is_file():
        pytest.skip("shared/peers/seed_recipe.yaml is not here")
    theirs = load(str(SEED_RECIPE), {})
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ours = plain(compose("config", ["dataset=quickstart", "recipe=pruned90_quant"]).recipe)
    assert theirs["num_epochs"] == ours["num_epochs"]
    found = {node["_target_"]: node for node in theirs["modifiers"].values()}
    wanted = {node["_target_"]: node for node in ours["modifiers"].values()}
    assert found.keys() == wanted.keys()
    for target, node in wanted.items():
        given = {"start": 0, "end": None, **found[target]}
        for key in node.keys() - {"enabled", "per_channel_weights"}:
            assert given[key] == node[key], (target, key)


def test_groups_without_tags_in_any_nesting(tmp_path: Path) -> None:
    tagged = of_text(RECIPE)
    nested = of_text(
        """
        num_epochs: 6
        qat_start: eval(num_epochs - 2)
        lr: 1e-4
        training_stage:
          run_type: train
          training_modifiers:
            EpochRangeModifier: {start_epoch: 0, end_epoch: eval(num_epochs)}
            lr_modifiers:
              - LearningRateFunctionModifier:
                  start_epoch: 0
                  end_epoch: eval(num_epochs)
                  lr_func: linear
                  init_lr: eval(lr)
                  final_lr: 0
          quantization_modifiers:
            - - QuantizationModifier: {start_epoch: eval(qat_start), submodules: [bert.encoder]}
        """
    )
    assert nested["modifiers"] == tagged["modifiers"]
    assert nested["num_epochs"] == 6
    assert tagged["lr"] == 1e-4


def test_markdown_front_matter(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text(f"---\n{RECIPE}\n---\n# A recipe\n\nText: with `eval(x)`\n---\nmore\n")
    assert is_sparseml(card)
    assert load(str(card), {})["modifiers"] == of_text(RECIPE)["modifiers"]
    card.write_text("# No recipe\n")
    with pytest.raises(UserError, match="no YAML front matter"):
        load(str(card), {})


def test_anchors_and_metadata(tmp_path: Path) -> None:
    values = loaded(
        """
        version: 1.1.0
        __metadata__: {framework: {torch: "1.9", modifiers: 3}}
        epochs: &epochs 5
        layers: &layers [bert.encoder, bert.pooler]
        a_modifiers:
          - !EpochRangeModifier {start_epoch: 0.0, end_epoch: *epochs}
          - !SetWeightDecayModifier {start_epoch: -1.0, weight_decay: 0.1}
        b_modifiers:
          - !QuantizationModifier {submodules: *layers, start_epoch: 1}
        """,
        tmp_path,
    )
    assert values["num_epochs"] == 5
    assert "version" not in values and "__metadata__" not in values
    assert values["modifiers"]["quantization"]["submodules"] == ["bert.encoder", "bert.pooler"]
    assert "start" not in values["modifiers"]["weight_decay"]


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


def test_training_is_never_lengthened(tmp_path: Path) -> None:
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
    with pytest.raises(ConfigError, match=r"variables\.lr: nothing reads .* write eval\(lr\)"):
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


def test_without_an_epoch_range_the_last_window_ends_training(tmp_path: Path) -> None:
    text = "modifiers:\n  - !DistillationModifier {start_epoch: 0, end_epoch: 4.5}\n"
    assert loaded(text, tmp_path)["num_epochs"] == 4.5
    with pytest.raises(UserError, match="add !EpochRangeModifier"):
        loaded(text.replace("4.5", "-1"), tmp_path)


def test_an_end_that_sparseml_does_not_read() -> None:
    text = """
        modifiers:
          - !EpochRangeModifier {start_epoch: 0, end_epoch: 4}
          - !SetLearningRateModifier {start_epoch: 1, end_epoch: 2, learning_rate: 0.1}
          - !QuantizationModifier {start_epoch: 1, end_epoch: -1.0, submodules: [classifier]}
        """
    assert all("end" not in node for node in of_text(text)["modifiers"].values())


def test_defaults_of_sparseml_that_are_not_ours() -> None:
    text = """
        modifiers:
          - !EpochRangeModifier {start_epoch: 0, end_epoch: 2}
          - !DistillationModifier {start_epoch: 0}
          - !QuantizationModifier {start_epoch: 1, submodules: [classifier]}
        """
    modifiers = of_text(text)["modifiers"]
    assert modifiers["distillation"]["hardness"] == 0.5
    assert modifiers["quantization"]["quantize_linear_activations"] is True


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("!QuantizatonModifier {start_epoch: 1}", "did you mean QuantizationModifier.*known: ACDC"),
        ("!DistillationModifier {hardnes: 1}", "hardnes: no field of Dist.*it has .*hardness"),
        ("!EpochRangeModifier {epochs: 1}", "epochs: no fields of EpochRange"),
        ("!QuantizationModifier {submodules: [x], weight_bits: 4}", "weight_bits: 4 .* 8 bits"),
        ("!DistillationModifier {hardness: eval(h)}", "no variable 'h'; there are epochs"),
        ("!DistillationModifier {hardness: eval(print(1))}", "refused: print"),
        (
            "!QuantizationModifier {submodules: [x], end_epoch: 2}",
            "end_epoch: 2 has no counterpart",
        ),
        ("!MFACPruningModifier {fisher_block_size: null}", "is null: a Fisher without blocks"),
        ("!DistillationModifier 3", "must be followed by its fields"),
        ("3", "3 is no modifier"),
        ("{DistillationModifier: 3}", "fields of DistillationModifier are 3"),
    ],
)
def test_a_wrong_modifier(line: str, problem: str) -> None:
    text = f"""
        epochs: 3
        modifiers:
          - !EpochRangeModifier {{start_epoch: 0, end_epoch: eval(epochs)}}
          - {line}
        """
    with pytest.raises(UserError, match=problem):
        of_text(text)


def test_every_wrong_modifier_is_named() -> None:
    text = "modifiers:\n  - !EpochRangeModifier {end_epoch: 1}\n  - !A {}\n  - !B {}\n"
    with pytest.raises(ConfigError) as caught:
        of_text(text)
    assert len(caught.value.problems) == 2
    assert "line 3" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\nb: 2", "line 2, column 2"),
        ("a: 1\n  b: 2", "line 2, column 4"),
        ("a: !!python/object/apply:os.system ['true']", "line 1, column 4"),
        ("just text", "holds no modifiers"),
        ("a: 1", "has no list of modifiers"),
        ("modifiers: &a [*a]", "an alias stands within what it names"),
        (LAUGHS, "more than 100000 values"),
        (
            "a: eval(b)\nmodifiers: [!A {x: eval(2 +)}]",
            r"recipe\.yaml: eval\(2 \+\) is no expression",
        ),
        ("pruning:\n  - !GMPruningModifier {}", "name ends in modifiers.*pruning_modifiers"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        loaded(text, tmp_path)
    assert "recipe.yaml" in str(caught.value) or "pruning_modifiers" in str(caught.value)


def test_line_numbers_in_markdown_are_the_files(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("\n\n---\na: [1\nb: 2\n---\n")
    with pytest.raises(UserError, match="line 5, column 2"):
        read(card)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the recipe"):
        load(str(tmp_path / "none.yaml"), {})
    with pytest.raises(UserError, match="SparseZoo is gone"):
        load("zoo:bert-base", {})


# --- the launcher


def test_the_launcher_reads_and_overrides_it(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    cfg = composed(f"recipe.path={file}", "recipe.variables.num_epochs=8")
    values = plain(DictConfig({"recipe": cfg.recipe, "epochs": cfg.training.num_train_epochs}))
    assert values["epochs"] == 8
    assert values["recipe"]["modifiers"]["quantization"]["start"] == 6


def test_the_launchers_config_resolves_in_place(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    cfg = composed(f"recipe.path={file}")
    node = OmegaConf.create({"recipe": OmegaConf.to_container(cfg.recipe)})
    OmegaConf.resolve(node)
    assert node.recipe.modifiers.quantization.start == 4


def test_the_launcher_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    with pytest.raises(ConfigError, match="no such variable; it has lr, num_epochs"):
        plain(
            DictConfig({"recipe": composed(f"recipe.path={file}", "recipe.variables.x=1").recipe})
        )
    with pytest.raises(ConfigError, match=r"add recipe\.path=VALUE"):
        plain(DictConfig({"recipe": composed().recipe}))


def test_calc_knows_what_sparsemls_expressions_use() -> None:
    assert calc("2 ** 3 + abs(-1) + int(2.7)") == 11


# --- there and back


@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.stem)
def test_every_style_converts(path: Path) -> None:
    assert len(STYLES) == 6
    node = native(read(path), str(path))
    # What the launcher reads from the converted file is what it reads from SparseML's.
    text = yaml.safe_dump(node, sort_keys=False)
    again = plain(OmegaConf.create({"recipe": OmegaConf.create(text)}))["recipe"]
    assert again == load(str(path), {})
    for modifier in again["modifiers"].values():
        assert modifier["_target_"] in {mapped.target for mapped in MODIFIERS.values()}


def back_and_forth(values: dict[str, Any]) -> dict[str, Any]:
    """A native recipe, as written, through SparseML's language and back."""
    settled = resolved(values)
    text = to_sparseml(values, settled, Recipe.build(settled).modifiers)
    return of_text(text)


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal modifiers, built: a field left at its default is one that says the same."""
    first, second = Recipe.build(one), Recipe.build(other)
    assert first.num_epochs == second.num_epochs
    kinds = sorted(map(repr, (ended(m, first) for m in first.modifiers.values())))
    assert kinds == sorted(map(repr, (ended(m, second) for m in second.modifiers.values())))


def ended(modifier: Modifier, recipe: Recipe) -> Modifier:
    end = recipe.num_epochs if modifier.end is None else modifier.end
    return dataclasses.replace(modifier, start=float(modifier.start), end=float(end))


BUILDABLE = [path for path in STYLES if path.stem not in ("obert", "block4")]


@pytest.mark.parametrize("path", BUILDABLE, ids=lambda path: path.stem)
def test_a_sparseml_recipe_survives_the_way_there_and_back(path: Path) -> None:
    node = native(read(path), str(path))
    same(back_and_forth(node), resolved(node))


@pytest.mark.parametrize("name", ["dense", "pruned90", "pruned90_quant", "gradual90_quant"])
def test_a_native_recipe_survives_the_way_there_and_back(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(overrides=[f"+recipe@recipe={name}"])
    written = OmegaConf.to_container(cfg.recipe)
    assert isinstance(written, dict)
    back = back_and_forth({str(key): value for key, value in written.items()})
    same(back, plain(cfg)["recipe"])
    # Variables stay variables: what depends on one still moves with it.
    assert back.keys() - {"modifiers"} == written.keys() - {"modifiers"}


def test_expressions_come_back_as_expressions() -> None:
    node = native(parse(RECIPE, "recipe.yaml"), "recipe.yaml")
    settled = resolved(node)
    text = to_sparseml(node, settled, Recipe.build(settled).modifiers)
    assert "qat_start: eval(num_epochs - 2)" in text
    assert "init_lr: eval(lr)" in text
    assert native(parse(text, "back"), "back")["qat_start"] == node["qat_start"]


def test_what_sparseml_has_no_word_for() -> None:
    quantization = {
        "_target_": "sparsekit.modifiers.quantization.Quantization",
        "per_channel_weights": True,
        "end": 1,
    }
    with pytest.raises(ConfigError, match=r"modifiers\.q: QuantizationModifier has no end"):
        back_and_forth({"num_epochs": 2, "modifiers": {"q": quantization}})
    quantization["end"] = None
    with pytest.raises(ConfigError, match="no field for per_channel_weights: True"):
        back_and_forth({"num_epochs": 2, "modifiers": {"q": quantization}})


# --- SparseML's recorded outputs


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


# --- whole runs

DENSE = ["student.sparsity=null"]


@pytest.mark.slow
@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.stem)
def test_a_style_runs_end_to_end(path: Path, tmp_path: Path) -> None:
    """The quickstart's data and model, with the recipe squeezed into a few steps."""
    command = [sys.executable, str(CONF.parent / "launch.py"), "dataset=quickstart"]
    options = [
        "student=quickstart",
        "teacher=self",
        "training=quickstart",
        "training.max_steps=24",
        "training.eval_strategy=no",
        "runtime=none",
        "tracking=none",
        "recipe=sparseml",
        f"recipe.path={path}",
        f"output_dir={tmp_path / 'run'}",
        *([] if path.stem == "transfer_qat" else DENSE),
    ]
    done = subprocess.run(command + options, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["train"]["steps"] == 24
    assert summary["export"]["verified"] is True
    saved = Recipe.load(tmp_path / "run" / "model" / "recipe.yaml")
    reached = {"held": 0.8} if path.stem == "transfer_qat" else {}
    for row in schedule.steps(saved, 10):
        reached |= {name: share for name, share in row["sparsity"].items() if share is not None}
    assert min(reached.values()) - 0.01 <= summary["sparsity"]["overall"]
    assert summary["sparsity"]["overall"] <= max(reached.values()) + 0.01
    quantized = any(isinstance(m, Quantization) for m in saved.modifiers.values())
    assert bool(summary["quantization"]["modules"]) == quantized


# --- the documentation


def test_the_documentation_names_every_modifier_and_field() -> None:
    text = (CONF.parent / "docs" / "recipes.md").read_text()
    assert len(MODIFIERS) == 16
    for kind, mapped in MODIFIERS.items():
        rows = [line for line in text.splitlines() if line.startswith(f"| `{kind}`")]
        assert rows, kind
        assert mapped.target.removeprefix("sparsekit.modifiers.") in rows[0]
        for name in mapped.known:
            assert f"`{name}`" in text or f"`{name}: " in text, (kind, name)
