"""`sparsekit recipe show | convert | plot`, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from project import GOLDEN, ROOT, SPARSEML_RECIPES
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.cli.recipe import _values

NATIVE = ROOT / "conf" / "recipe" / "pruned90_quant.yaml"
STYLES = SPARSEML_RECIPES
TRANSFER = STYLES / "transfer_qat.yaml"


def recipe(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["recipe", *map(str, arguments)])


def steps(*arguments: object) -> list[dict[str, Any]]:
    result = recipe("show", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def error(*arguments: object) -> str:
    result = recipe(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    return result.stderr


def test_show_prints_windows_and_epochs() -> None:
    text = recipe("show", TRANSFER).stdout
    for word in ("learning_rate", "Quantization", "6 - 10", "600 - 1000", "At the start of each"):
        assert word in text


@pytest.mark.parametrize("path", [NATIVE, TRANSFER], ids=["native", "sparseml"])
def test_show_lists_every_step(path: Path) -> None:
    rows = steps(path, "--steps-per-epoch", 4)
    epochs = 13 if path == NATIVE else 10
    assert [row["step"] for row in rows] == list(range(4 * epochs))
    assert [row["epoch"] for row in rows[:5]] == [0, 0.25, 0.5, 0.75, 1]
    for row in rows:
        assert row.keys() >= {"step", "epoch", "lr", "sparsity", "active"}
        assert ("quantization" in row["active"]) == (row["epoch"] >= (8 if path == NATIVE else 6))


def test_both_languages_show_the_same(tmp_path: Path) -> None:
    seed = steps(GOLDEN / "seed_recipe.yaml", "--steps-per-epoch", 7)
    native = steps(NATIVE, "--steps-per-epoch", 7)
    assert [row["lr"] for row in seed] == [row["lr"] for row in native]
    assert [row["weight_decay"] for row in seed] == [row["weight_decay"] for row in native]


def test_sparsity_by_group() -> None:
    rows = steps(STYLES / "gradual30.yaml", "--steps-per-epoch", 2)
    groups = {name for row in rows for name in row["sparsity"]}
    assert any(name.startswith("pruning_2") for name in groups)
    assert rows[-1]["sparsity"]["pruning"] == pytest.approx(0.7)
    planned = [row["sparsity"]["pruning"] for row in rows if row["sparsity"]["pruning"] is not None]
    assert planned == sorted(planned)
    assert planned[0] == pytest.approx(0.3)


def test_variables_can_be_set() -> None:
    assert len(steps(TRANSFER, "--steps-per-epoch", 1, "--set", "num_epochs=20")) == 20
    assert len(steps(NATIVE, "--steps-per-epoch", 1, "--set", "num_epochs=7")) == 7
    assert "it has" in error("show", NATIVE, "--set", "epochs=3")
    assert "write NAME=VALUE" in error("show", NATIVE, "--set", "epochs")
    assert "modifiers is 3; write NAME:" in error("show", NATIVE, "--set", "modifiers=3")


@pytest.mark.parametrize(
    ("value", "pattern"), [("2:4", "2:4"), ("[1, 4]", [1, 4]), ("'block4'", "block4")]
)
def test_values_are_read_as_in_a_recipe(value: str, pattern: str | list[int]) -> None:
    assert _values([f"mask={value}", "lr=1e-4"]) == {"mask": pattern, "lr": 1e-4}
    assert "--set s=[ is not readable YAML" in error("show", NATIVE, "--set", "s=[")


def test_a_recipe_of_the_zoo_is_gone() -> None:
    assert "SparseZoo is closed" in error("show", "zoo:nlp/sst2")


def test_a_plot_is_a_png(tmp_path: Path) -> None:
    assert "recipe.png" in error("plot", NATIVE, "-o", tmp_path / "recipe.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["show", "plot"])
def test_what_is_wrong_in_a_recipe(verb: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    text = TRANSFER.read_text()
    wrong = {
        "hardness: &hardness 0.9": ("hardness: &hardness 1.5", "hardness 1.5"),
        "start_epoch: eval(qat_start_epoch)": ("start_epoch: 10", "epoch 10 but training ends"),
        "end_epoch: eval(num_epochs)\n      lr_func": (
            "end_epoch: 0\n      lr_func",
            "its window is empty",
        ),
        "!QuantizationModifier": ("!QuantModifier", "unknown modifier QuantModifier"),
        "  - !SetWeightDecayModifier": ("  - [", "line 4"),
    }
    for old, (new, problem) in wrong.items():
        assert old in text
        file.write_text(text.replace(old, new))
        assert problem in error(verb, file), new


def test_two_learning_rates_in_one_window_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    second = """
more_modifiers:
  - !LearningRateFunctionModifier
      {start_epoch: 2, end_epoch: 4, lr_func: cosine, init_lr: 0.1, final_lr: 0}
"""
    file.write_text(TRANSFER.read_text() + second)
    assert "recipe.modifiers.learning_rate and recipe.modifiers.learning_rate_2" in error(
        "show", file
    )


def test_convert_prints_a_native_recipe() -> None:
    text = recipe("convert", TRANSFER).stdout
    assert "qat_start_epoch: ${calc:'${recipe.num_epochs} * 0.6'}" in text
    assert "_target_: sparsekit.modifiers.quantization.qat.Quantization" in text


def test_a_converted_recipe_is_chosen_by_name(tmp_path: Path) -> None:
    """As the file's own first lines say: in a folder of one's own, or as conf/recipe/NAME.yaml."""
    target = tmp_path / "recipe" / "mine.yaml"
    assert recipe("convert", TRANSFER, "-o", target).stdout == f"{target}\n"
    assert steps(target, "--steps-per-epoch", 3) == steps(TRANSFER, "--steps-per-epoch", 3)
    command = [sys.executable, ROOT / "launch.py", "--config-dir", tmp_path, "recipe=mine"]
    options = ["dataset=quickstart", "recipe.num_epochs=5", "--cfg", "job", "--resolve"]
    printed = subprocess.run(
        [*command, *options, "-p", "recipe.modifiers.quantization"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ,
    )
    assert "start: 3.0\n" in printed.stdout


def test_convert_to_sparseml_and_back(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.yaml", tmp_path / "ours.yaml"
    assert recipe("convert", NATIVE, "--to", "sparseml", "-o", theirs).exit_code == 0
    assert "- !QuantizationModifier\n" in theirs.read_text()
    assert recipe("convert", theirs, "-o", ours).exit_code == 0
    there, back = (steps(file, "--steps-per-epoch", 3) for file in (NATIVE, ours))
    assert [row["lr"] for row in there] == [row["lr"] for row in back]
    assert len(there[-1]["active"]) == len(back[-1]["active"])


def test_a_built_in_recipe_is_converted_by_its_name() -> None:
    by_name = recipe("convert", NATIVE.stem, "--to", "sparseml").stdout
    assert by_name == recipe("convert", NATIVE, "--to", "sparseml").stdout
    assert "there is no recipe 'nowhere'" in error("convert", "nowhere")


def test_nothing_to_convert(tmp_path: Path) -> None:
    assert "is a native recipe already; use --to sparseml" in error("convert", NATIVE)
    assert "is a sparseml recipe already" in error("convert", TRANSFER, "--to", "sparseml")
    assert "there is no recipe file" in error("convert", tmp_path / "none.yaml")
    (tmp_path / "file").touch()
    assert "cannot write" in error("convert", TRANSFER, "-o", tmp_path / "file" / "x.yaml")


def test_plot_writes_a_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe("plot", TRANSFER, "--steps-per-epoch", 5).stdout == "transfer_qat.png\n"
    assert (tmp_path / "transfer_qat.png").read_bytes().startswith(b"\x89PNG")
    assert "cannot write" in error("plot", TRANSFER, "-o", tmp_path / "no" / "x.png")


def test_a_recipe_is_converted_without_torch() -> None:
    """What only reads a recipe starts at once: conversion to the native language."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from sparsekit.cli.app import app\n"
        f"done = CliRunner().invoke(app, ['recipe', 'convert', {str(TRANSFER)!r}])\n"
        "sys.exit('imported torch' if 'torch' in sys.modules else done.exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
