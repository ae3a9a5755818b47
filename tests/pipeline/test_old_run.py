"""A run folder made before sparsekit's modules moved: every verb still reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object
from project import GOLDEN

from sparsekit.config.build import build
from sparsekit.config.identity import identity_hash
from sparsekit.config.old_names import OLD_NAMES
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.verification import verify_run
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.answers import predict
from sparsekit.runtime.onnxruntime import OnnxRuntime

RUN = GOLDEN / "old_run"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


@pytest.mark.parametrize("old", OLD_NAMES, ids=str)
def test_an_old_name_is_something_today(old: str) -> None:
    assert callable(get_object(OLD_NAMES[old]))


def test_its_config_is_a_plan(run: Path, csv_files: dict[str, str], student_folder: str) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    assert identity_hash(values) == RunFolder(run).summary["config"]["hash"]
    values["dataset"]["data_files"] |= csv_files
    values["student"]["checkpoint"] = student_folder
    plan = Plan.build(values)
    assert list(plan.recipe.modifiers) == [
        "learning_rate",
        "pruning",
        "distillation",
        "weight_decay",
        "quantization",
    ]
    assert build(values["tracking"], "tracking").mode == "disabled"


def test_its_recipe_is_read(run: Path) -> None:
    recipe = Recipe.load(run / "model" / "recipe.yaml")
    assert recipe.lr(1.5, 3) == pytest.approx(5e-4)
    assert not recipe.problems()


def test_it_is_verified(run: Path) -> None:
    verify_run(RunFolder(run), RunFolder(run).summary)


def test_it_is_exported_again_to_the_same_answers(run: Path) -> None:
    texts = ["a movie that is good", "dull and bad"]
    before = predict(run / "deployment", texts, None, OnnxRuntime)
    shutil.rmtree(run / "deployment")
    exported = export(run, ExportConfig())
    assert exported["verified"]
    assert predict(run / "deployment", texts, None, OnnxRuntime) == before
    recorded = json.loads((RUN / "summary.json").read_text())["export"]
    assert exported["zero_fraction"] == recorded["zero_fraction"]
