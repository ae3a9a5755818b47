"""`sparsekit init`: the project composes, trains and is never written over another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from launching import TAUGHT_BY_ITSELF
from project import ROOT
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.config.plain import plain
from sparsekit.pipeline.plan import Plan


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    result = CliRunner().invoke(app, ["init", str(folder)])
    assert result.exit_code == 0, result.output
    assert f"cd {folder} && " in result.output
    return folder


def test_the_experiment_composes_of_the_projects_own_files(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        own = f"hydra.searchpath=[file://{project / 'conf'},file://{ROOT}]"
        config = compose("config", ["experiments=mine", "output_dir=run", own])
    plan = Plan.build(plain(config))
    assert plan.recipe.num_epochs == 6
    assert "quantization" in plan.recipe.modifiers
    assert config.dataset.data_files.train == "data/train.csv"


def test_a_folder_with_something_in_it_is_refused(project: Path) -> None:
    before = sorted(project.rglob("*"))
    result = CliRunner().invoke(app, ["init", str(project)])
    assert result.exit_code == 1
    assert result.stderr == f"error: {project} is not empty: choose a new folder\n"
    result = CliRunner().invoke(app, ["init", str(project / "README.md")])
    assert "is a file: choose a new folder" in result.stderr
    assert sorted(project.rglob("*")) == before


@pytest.mark.slow
def test_the_project_trains(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    done = _train("experiments=mine", "training.max_steps=12", *TAUGHT_BY_ITSELF)
    assert done.startswith("run: ")
    summary = json.loads((Path(done.removeprefix("run: ")) / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["export"]["verified"]


def _train(*overrides: str) -> str:
    """The last line of `sparsekit train --config-dir conf OVERRIDES...`."""
    command = [sys.executable, "-m", "sparsekit", "train", "--config-dir", "conf", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]
