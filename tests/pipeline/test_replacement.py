"""A run in a folder that is not empty: foreign files and earlier results are not lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from launching import TAUGHT_BY_ITSELF, launch, local, run_here

from sparsekit.errors import UserError
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.replacement import mark


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below `folder`, by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def foreign_project(folder: Path) -> dict[str, bytes]:
    """A project with a `deployment/` and a summary of its own; returns its contents."""
    (folder / "deployment" / "k8s").mkdir(parents=True)
    (folder / "deployment" / "k8s" / "app.yaml").write_text("replicas: 3")
    (folder / "summary.json").write_text('{"revenue": 3}')
    return contents(folder)


def test_a_foreign_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """`hydra.run.dir=.` in a project, with a config that is sound and with one that is not."""
    project = tmp_path / "project"
    before = foreign_project(project)
    for words in ("dataset=quickstart", "dataset=quickstart student.sparsity=2"):
        done = launch(f"{words} hydra.run.dir=.", project, dict(os.environ))
        assert done.returncode == 1
        assert done.stderr == (
            "error: . holds summary.json, deployment, which no run wrote and this one would "
            "replace; set another folder: hydra.run.dir=FOLDER\n"
        )
        assert contents(project) == before
    with pytest.raises(UserError, match="which no run wrote"):
        run_here(project, "dataset=quickstart")
    assert contents(project) == before


def test_a_second_run_leaves_the_files_of_the_one_at_work(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    (run.path / ".hydra").mkdir(parents=True)
    (run.path / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    with run.lock():
        before = contents(run.path)
        done = launch(f"dataset=quickstart seed=2 hydra.run.dir={run}", tmp_path, dict(os.environ))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert f"another process is running in {run}" in done.stderr
        assert contents(run.path) == before


def test_a_refused_job_leaves_the_launch_record_of_the_earlier_run(tmp_path: Path) -> None:
    """`resume` and `rerun` repeat that run, not the job that was refused in its folder."""
    run = RunFolder(tmp_path / "run")
    (run.path / ".hydra").mkdir(parents=True)
    for name in ("config", "hydra", "overrides"):
        (run.path / ".hydra" / f"{name}.yaml").write_text(f"- {name}=1\n")
    run.config_file.write_text("seed: 1\n")
    mark(run)
    before = contents(run.path)
    done = launch(f"dataset=quickstart +nothing=1 hydra.run.dir={run}", tmp_path, dict(os.environ))
    assert done.returncode == 1 and "nothing reads it" in done.stderr
    after = contents(run.path)
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_a_refused_config_leaves_an_earlier_runs_results(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    choices = [*local(csv_files, student_folder), *TAUGHT_BY_ITSELF]
    refused = [
        (["recipe.num_epochs=5", "recipe.qat_epochs=6"], "start -1 lies before epoch 0"),
        (["+num_epochs=3"], "nothing reads it"),
    ]
    for change, problem in refused:
        with pytest.raises(UserError, match=problem):
            run_here(tmp_path, *choices, *change)
        # In a folder without a run it is recorded, each time anew.
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["status"] == "failed" and problem in summary["error"]
        assert summary["config"]["dataset"] == "csv"
    assert run_here(tmp_path, *choices)["status"] == "completed"
    before = contents(tmp_path)
    for change, problem in refused:
        with pytest.raises(UserError, match=problem):
            run_here(tmp_path, *choices, *change)
        assert contents(tmp_path) == before
