"""The `sparsekit` verbs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from project import CONF
from safetensors.numpy import save_file
from typer.testing import CliRunner

from sparsekit.cli.app import app

RECIPES = CONF / "recipe"


def sparsekit(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weight = np.eye(8, dtype=np.float32)
    save_file({"bert.encoder.layer.0.output.dense.weight": weight}, tmp_path / "model.safetensors")
    return tmp_path


def test_help_lists_the_verbs_without_torch():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from sparsekit.cli.app import app\n"
        "print(CliRunner().invoke(app, ['--help']).output)\n"
        "slow = {'torch', 'transformers', 'datasets', 'wandb', 'onnxruntime', 'hydra'}\n"
        "sys.exit(' '.join(slow & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for verb in ("predict", "inspect", "export", "benchmark", "recipe", "doctor"):
        assert verb in result.stdout


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_the_locale_cannot_write_is_escaped(tmp_path):
    folder = str(tmp_path / "\N{SNOWMAN}")
    shown = run_python("-m", "sparsekit", "init", folder, PYTHONIOENCODING="latin-1")
    assert shown.returncode == 0, shown.stderr
    assert "\\u2603" in shown.stdout


def test_python_without_docstrings_is_named_as_the_cause():
    refused = run_python("-OO", "-m", "sparsekit", "train", "experiments=quickstart")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: python -OO removes the docstrings")


def test_inspect(model):
    result = sparsekit("inspect", model)
    assert result.exit_code == 0
    assert "87.50%" in result.stdout
    assert "1:4" in result.stdout


def test_inspect_as_json(model):
    seen = json.loads(sparsekit("inspect", model, "--json").stdout)
    assert seen["sparsity"] == 0.875
    assert seen["layers"]["bert.encoder.layer.0.output.dense"] == {
        "shape": [8, 8],
        "sparsity": 0.875,
        "pattern": "1:4",
        "weights": "float32",
        "activations": None,
        "prunable": True,
    }


def test_a_mistake_is_one_line_on_stderr_and_exit_code_1(tmp_path):
    for arguments in (
        ["inspect", tmp_path / "nowhere"],
        ["export", tmp_path],
        ["benchmark", tmp_path],
        ["predict", tmp_path, "fine"],
        ["recipe", "show", tmp_path / "none.yaml"],
    ):
        result = sparsekit(*arguments)
        assert result.exit_code == 1, arguments
        assert result.stdout == ""
        assert re.fullmatch(r"error: [^\n]+\n", result.stderr), result.stderr
        assert str(arguments[1 if arguments[0] != "recipe" else 2]) in result.stderr


@pytest.mark.parametrize(
    "path",
    sorted(set(RECIPES.glob("*.yaml")) - {RECIPES / "sparseml.yaml"}),
    ids=lambda path: path.stem,
)
def test_recipe_show(path):
    result = sparsekit("recipe", "show", path, "--steps-per-epoch", 10)
    assert result.exit_code == 0, result.output
    assert "learning_rate" in result.stdout
    rows = json.loads(sparsekit("recipe", "show", path, "--steps-per-epoch", 10, "--json").stdout)
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert rows[5]["epoch"] == 0.5
    assert rows[0]["lr"] > rows[-1]["lr"] > 0


def test_recipe_show_composes_a_recipe_that_builds_on_another():
    path = RECIPES / "pruned90_quant.yaml"
    rows = json.loads(sparsekit("recipe", "show", path, "--steps-per-epoch", 2, "--json").stdout)
    assert len(rows) == 26
    quantized = [row["epoch"] for row in rows if "quantization" in row["active"]]
    assert quantized[0] == 8.0
    assert rows[0]["lr"] == pytest.approx(1.5e-4)


def test_installed_command():
    command = Path(sys.executable).parent / "sparsekit"
    result = subprocess.run(
        [command, "recipe", "--help"], capture_output=True, text=True, check=False, env=os.environ
    )
    assert "show" in result.stdout


def test_help_wraps_paragraphs_and_keeps_escapes() -> None:
    wrapped = CliRunner().invoke(app, ["benchmark", "--help"], env={"COLUMNS": "80"}).output
    assert "which this was the last missing stage becomes completed." in wrapped
    escapes = CliRunner().invoke(app, ["predict", "--help"], env={"COLUMNS": "80"}).output
    for escape in (r"\t", r"\n", r"\\"):
        assert escape in escapes


@pytest.mark.parametrize(
    ("words", "default"),
    [
        (["prune"], "MODEL-METHOD-SPARSITY"),
        (["shrink"], "MODEL-shrunk"),
        (["sensitivity"], "MODEL-sensitivity"),
        (["recipe", "plot"], "FILE's name with .png,"),
    ],
)
def test_the_help_says_where_a_result_is_written(words: list[str], default: str) -> None:
    text = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "300"}).output
    assert f"[default: {default} in the working directory]" in text
