"""Two processes train as one does on their batches together: rows, losses, ranges, weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import shared_api
import shared_training
import torch
from datasets import Dataset
from project import ROOT
from tiny_training import LoadedModel, trainer

from sparsekit.errors import UserError
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.processes import SharedBatches

SUPPORT = ROOT / "tests" / "support"


def torchrun(script: str, *arguments: str, temporary: Path | None = None) -> None:
    """Run a script beside this project's tests in two processes."""
    paths = {"PYTHONPATH": f"{ROOT}:{SUPPORT}", **({"TMPDIR": str(temporary)} if temporary else {})}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"),
            *(str(SUPPORT / script), *arguments),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | paths,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def by_two(student_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of 8 rows each trained, by setting."""
    folder = tmp_path_factory.mktemp("by-two")
    torchrun("shared_training.py", student_folder, str(folder), "8")
    return folder


@pytest.mark.parametrize("setting", shared_training.SETTINGS)
def test_two_processes_end_where_one_does(
    by_two: Path, tmp_path: Path, student_folder: str, setting: str
) -> None:
    one: dict[str, Any] | None = shared_training.train(student_folder, tmp_path, 16, setting)
    two = torch.load(by_two / f"{setting}.pt")
    assert one is not None
    assert one["logged"].keys() == two["logged"].keys()
    assert {name.split()[0] for name in one["logged"]} >= {"loss", "task_loss", "kd_loss"}
    for name, value in one["logged"].items():
        # The part of a modifier is a mean over processes, whose last batches differ by a row.
        tolerance = 5e-3 if name.startswith("kd_loss") else 2e-6
        assert two["logged"][name] == pytest.approx(value, abs=tolerance), name
    assert one["weights"].keys() == two["weights"].keys()
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=1e-6, atol=1e-6, msg=name)


def test_two_processes_resume_to_the_same_weights(by_two: Path) -> None:
    both = torch.load(by_two / "resumed.pt")
    for name, value in both["whole"].items():
        assert torch.equal(both["resumed"][name], value), name


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_the_rows_of_each_batch(rows: int, processes: int, drop_last: bool) -> None:
    order = list(torch.randperm(rows))
    shares = [
        list(SharedBatches(order, 4, processes, process, drop_last))  # type: ignore[arg-type]
        for process in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    size = 4 * processes
    whole = [order[start : start + size] for start in range(0, rows, size)]
    if drop_last:
        whole = [batch for batch in whole if len(batch) == size]
    assert len(shares[0]) == len(whole)
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert {int(row) for part in parts for row in part} == {int(row) for row in batch}
        assert max(map(len, parts)) <= 4
        assert min(map(len, parts)) >= 1


@pytest.mark.slow
def test_two_processes_of_the_api_keep_one_run_folder_and_one_model(
    tmp_path: Path, student_folder: str
) -> None:
    """With parameters that are trained only later, and resumed by the arguments."""
    (tmp_path / "tmp").mkdir()
    folder, pair = tmp_path / "two", ("shared_api.py", student_folder)
    torchrun(*pair, str(folder), "4", "stopped", temporary=tmp_path / "tmp")
    run = RunFolder(folder)
    assert run.ending.status == "failed"
    [checkpoint] = run.checkpoints.iterdir()
    torchrun(*pair, str(folder), "4", "resumed", temporary=tmp_path / "tmp")
    assert not list((tmp_path / "tmp").glob("sparsekit-process-*"))
    assert run.ending.status == "completed"
    assert run.summary["train"]["steps"] == 6
    events = [line for line in run.metrics.read_text().splitlines() if "eval_loss" in line]
    assert len(events) == 2, "each event once"
    assert checkpoint.name == "checkpoint-3"
    first, second = (torch.load(f"{folder}-{name}.pt") for name in ("first", "second"))
    one = shared_api.train(student_folder, tmp_path / "one", 8, stopped=False, resume=False)
    whole = one.state_dict()
    started = type(one).from_pretrained(student_folder).get_parameter(shared_api.LATE)
    assert not torch.equal(first[shared_api.LATE], started)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6, msg=name)


def test_frozen_parameters_need_processes_that_wait_for_no_gradient_of_theirs(
    tmp_path: Path,
    student: LoadedModel,
    rows: dict[str, Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = Recipe.from_dict(shared_api.RECIPE).for_teacher(has_teacher=False)
    made = trainer(tmp_path, student, rows, recipe, ddp_find_unused_parameters=False)
    monkeypatch.setattr(SparseTrainingArguments, "world_size", 2)
    with pytest.raises(UserError, match=r"set training\.ddp_find_unused_parameters=true"):
        made._prepare_for_training(4, None, None)
