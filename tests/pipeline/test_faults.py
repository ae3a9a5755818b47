"""Faults of the machine: one clear message each, and never a finished result."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launching import local, run_here
from project import ROOT
from small_disk import small_disk

from sparsekit.errors import UserError
from sparsekit.runs.faults import fault
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.tracking import Tracker
from sparsekit.training.recipe_trainer import RecipeTrainer

SAVING = ["training.save_strategy=steps", "+training.save_steps=2", "training.save_total_limit=5"]


# From the first file of a run to its last: each size fills the disk at another one.
@pytest.mark.parametrize("kibibytes", [80, 160, 400, 800, 1200])
def test_a_full_disk_costs_one_sentence(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str, kibibytes: int
) -> None:
    with small_disk(tmp_path / "disk", kibibytes) as disk:
        run = RunFolder(disk / "run")
        with pytest.raises(UserError, match=r"no space left|cannot be written"):
            run_here(run.path, *local(csv_files, student_folder), *SAVING)
        end = run.ending
        assert end.status == "failed"
        assert str(end.error).startswith("no space left to write")
        left = {path.name for path in run.path.rglob("*")}
        assert not {name for name in left if name.endswith(".tmp") or name == ".unfinished"}


def test_a_run_that_completes_leaves_no_reserve(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    run_here(tmp_path / "run", *local(csv_files, student_folder), "export=none")
    assert not RunFolder(tmp_path / "run").reserve.exists()


@pytest.mark.slow
def test_a_file_that_may_not_grow_costs_one_line(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    """The launcher itself, where every file has a limit of size, as a quota sets it."""
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "launch.py"), *local(csv_files, student_folder)),
            *("tracking=none", "hydra.run.dir=run"),
        ],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=200,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000)),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: no space left to write" in done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"


def test_a_run_folder_that_vanishes_is_named(
    tmp_path: Path,
    csv_files: dict[str, str],
    student_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Tracker.log

    def vanish(tracker: Tracker, *arguments: Any, **options: Any) -> None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        log(tracker, *arguments, **options)

    monkeypatch.setattr(Tracker, "log", vanish)
    with pytest.raises(UserError, match="was removed while the run was at work"):
        run_here(tmp_path / "run", *local(csv_files, student_folder))
    assert "summary.json cannot be written" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_batch_size(
    tmp_path: Path,
    csv_files: dict[str, str],
    student_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(RecipeTrainer, "training_step", fail)
    with pytest.raises(UserError, match=r"out of memory.*per_device_train_batch_size"):
        run_here(tmp_path / "run", *local(csv_files, student_folder))
    assert RunFolder(tmp_path / "run").summary["error"].startswith("out of memory")


def test_other_errors_are_no_faults(tmp_path: Path) -> None:
    for error in (ValueError("a bug"), KeyError("x"), FileNotFoundError(2, "none", "file")):
        assert fault(error, RunFolder(tmp_path)) is None


def test_a_run_folder_whose_files_vanish_first_is_named(tmp_path: Path) -> None:
    inside = FileNotFoundError(2, "No such file", str(tmp_path / "checkpoints" / ".unfinished"))
    assert (fault(inside, RunFolder(tmp_path)) or "").startswith(f"{inside.filename} was removed")
    shutil.rmtree(tmp_path)
    assert (fault(inside, RunFolder(tmp_path)) or "").startswith(f"the run folder {tmp_path} was")


def test_a_file_that_was_looked_for_in_vain_hides_no_error(tmp_path: Path) -> None:
    try:
        try:
            (tmp_path / "optional.json").read_text()
        except FileNotFoundError:
            raise ValueError("shape mismatch")  # noqa: B904 - this is what is tested
    except ValueError as error:
        assert fault(error, RunFolder(tmp_path)) is None


def test_permissions_outside_of_the_run_are_no_matter_of_its_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    inside, outside = (
        fault(PermissionError(13, "Permission denied", str(file)), run) or ""
        for file in (run.path / "model", tmp_path / "teacher" / "model.safetensors")
    )
    assert "cannot be written" in inside and inside.endswith("set another hydra.run.dir")
    assert "model.safetensors cannot be read or written" in outside
    assert "change its permissions" in outside and "hydra.run.dir" not in outside


def test_a_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the run folder.*set hydra.run.dir=FOLDER"):
        run_here(tmp_path / "file" / "run", *local(csv_files, student_folder))
