"""SparseML's recipe files, read directly and by the launcher, with variables overridden."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from project import CONF, GOLDEN
from sparseml_text import RECIPE, loaded, of_text

from sparsekit.config.plain import plain
from sparsekit.errors import ConfigError, UserError
from sparsekit.sparseml.recipes.load import is_sparseml, load
from sparsekit.sparseml.recipes.text import values_of

SEED_RECIPE = GOLDEN / "seed_recipe.yaml"


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["dataset=quickstart", "recipe=sparseml", *overrides])


def test_the_seed_recipe_is_the_native_one() -> None:
    """`recipe=pruned90_quant` has the modifiers and values of this file."""
    theirs = load(str(SEED_RECIPE), {})
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ours = plain(compose("config", ["dataset=quickstart", "recipe=pruned90_quant"]).recipe)
    assert theirs["num_epochs"] == ours["num_epochs"]
    actual = {node["_target_"]: node for node in theirs["modifiers"].values()}
    wanted = {node["_target_"]: node for node in ours["modifiers"].values()}
    assert actual.keys() == wanted.keys()
    for target, node in wanted.items():
        given = {"start": 0, "end": None, **actual[target]}
        for key in node.keys() - {"enabled", "per_channel_weights", "quantize_attention"}:
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
    card = card.with_suffix(".MD")
    card.write_text(f"<!--\nCopyright\n-->\n\n---\n{RECIPE}\n---\n# A recipe\n---\nmore\n")
    assert is_sparseml(card)
    assert load(str(card), {})["modifiers"] == of_text(RECIPE)["modifiers"]
    card.write_text("<!--\nCopyright\n-->\n---\na: [\n---\n")
    with pytest.raises(UserError, match="line 6, column 1"):
        load(str(card), {})
    card.write_text("# No recipe\n")
    with pytest.raises(UserError, match="no YAML front matter"):
        load(str(card), {})


def test_defaults_that_are_not_ours() -> None:
    text = """
        - !OBSPruningModifier
            {init_sparsity: 0.1, final_sparsity: 0.5, start_epoch: 0, end_epoch: 2, params: []}
        - !DistillationModifier {temperature: 3.0}
        """
    pruning, distillation = of_text(text)["modifiers"].values()
    assert (pruning["fisher_block_size"], pruning["params"]) == (1, "__ALL_PRUNABLE__")
    assert distillation["hardness"] == 0.5


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
    newer = of_text(text.replace(", submodules: [classifier]", ""))["modifiers"]["quantization"]
    assert newer["scheme"] == "default"
    assert "quantize_linear_activations" not in newer


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


def test_problems_in_the_launcher(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    with pytest.raises(ConfigError, match="no such variable; it has lr, num_epochs"):
        plain(
            DictConfig({"recipe": composed(f"recipe.path={file}", "recipe.variables.x=1").recipe})
        )
    with pytest.raises(ConfigError, match=r"add recipe\.path=VALUE"):
        plain(DictConfig({"recipe": composed().recipe}))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2:4", "2:4"),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("-1", -1),
        ("1_000", 1000),
        ("0x1f", 31),
        (".inf", float("inf")),
        ("1.5e3", 1500.0),
        ("1.2.3", "1.2.3"),
    ],
)
def test_numbers_are_those_of_yaml_1_2(written: str, value: object) -> None:
    assert values_of(f"[{written}]", "file") == [value]


def test_a_merged_mapping_may_be_overridden() -> None:
    text = "a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}\nc: &c {<<: *a, y: 3}\nd: {<<: [*a, *c], x: 4}"
    merged = values_of(text, "file")
    assert merged["b"] == {"x": 2, "y": 1}
    assert merged["d"] == {"x": 4, "y": 1}
