"""`--allow MODULE`, for each command that reads a file which may name a class of a user's own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import GOLDEN
from typer.testing import CliRunner

from sparsekit.cli.app import app

MODULE = "own_classes"
SOURCE = """
from dataclasses import dataclass

from sparsekit.runs.tracking import TrackingConfig
from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers
from sparsekit.tasks.text_classification import TextClassification


class Verdicts(TextClassificationAnswers):
    pass


class Reviews(TextClassification):
    pass


class Tracking(TrackingConfig):
    pass
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield
    sys.modules.pop(MODULE, None)


def check(*words: object) -> None:
    """The command refuses to import the module by itself, and ends well with `--allow`."""
    command = [str(word) for word in words]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert f"add --allow {MODULE} to the command" in refused.output
    assert MODULE not in sys.modules
    done = CliRunner().invoke(app, [*command, "--allow", MODULE])
    assert done.exit_code == 0, done.output


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    """A run whose deployment names a class of the module."""
    run = shutil.copytree(GOLDEN / "old_run", tmp_path / "deployed")
    named = json.dumps({"_target_": f"{MODULE}.Verdicts"})
    (run / "deployment" / "task.json").write_text(named)
    return run


def test_predict(deployed: Path, tmp_path: Path) -> None:
    check("predict", deployed, "a film")
    sys.modules.pop(MODULE)
    (tmp_path / "texts.csv").write_text("text\na film\n")
    check("predict", deployed, tmp_path / "texts.csv", "--column", "text")


def test_serve(deployed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsekit.serving.server.run", lambda *_: None)
    check("serve", deployed, "--port", 0)


def test_web_takes_no_class_that_a_page_cannot_run(deployed: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["web", str(deployed), "-o", str(tmp_path / "page")])
    assert done.exit_code == 1
    assert "a page cannot run this model: its task is a class of your own" in done.output


def test_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shutil.copytree(GOLDEN / "old_run", tmp_path / "sweep" / "0")
    (run / "config.yaml").write_text(f"tracking:\n  _target_: {MODULE}.Tracking\n")
    monkeypatch.setattr("sparsekit.sweep.workspace.save_workspace", lambda *_: "https://view")
    check("workspace", tmp_path / "sweep")


@pytest.mark.parametrize(
    "words",
    [
        ["shrink", "--heads", "0.5"],
        ["prune", "--method", "wanda", "--sparsity", "0.5", "--rows", "4"],
        ["sensitivity", "--share", "0.5", "--rows", "4"],
    ],
    ids=lambda words: words[0],
)
def test_commands_on_a_checkpoint(
    words: list[str], teacher_folder: str, csv_files: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(teacher_folder, tmp_path / "run" / "model")
    config = {"task": {"_target_": f"{MODULE}.Reviews"}, "dataset": {"text_columns": ["text"]}}
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(config))
    data = [] if words[0] == "shrink" else ["--data", csv_files["train"]]
    check(words[0], tmp_path / "run", *words[1:], *data, "-o", tmp_path / "out")
