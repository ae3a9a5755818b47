"""Sweeps: which jobs run, that a failing one fails alone, and that a second call goes on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from sweeping import poison, ran, statuses, sweep

from hydra_plugins.sparsekit_sweeper import _data_files
from sparsekit.data.datasets import FileDataset
from sparsekit.data.more_texts import MoreTexts
from sparsekit.errors import UserError
from sparsekit.runs.folder import Ending, RunFolder
from sparsekit.runs.report import show
from sparsekit.sweep.jobs import Job, expand, read_record, sweep_key, to_run
from sparsekit.sweep.table import summary_table

BASIC = "hydra/launcher=basic"


@pytest.mark.slow
def test_failing_jobs_fail_alone_and_alone_run_again(tmp_path: Path) -> None:
    poison(tmp_path, s2="raise", s3="exit", s4="kill")
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    two = "hydra.launcher.n_jobs=2"
    done = sweep(tmp_path, "seed=1,2,3,4,5", two, code=1, temporary=scratch)
    assert sorted(ran(tmp_path)) == ["1", "5"]
    assert "3 of 5 jobs failed" in done.stderr
    # A mistake's message, without the traces of those who pass it on; a fault's with them.
    assert "\nerror: a mistake\n" in f"\n{done.stderr}"
    assert "SystemExit" not in done.stderr
    assert "ValueError: a bad batch\n" in done.stderr
    assert "- 1 (seed=2): failed: RuntimeError: the job's process ended with code 1" in done.stderr
    assert (
        "- 3 (seed=4): failed: RuntimeError: the job's process was killed by SIGKILL" in done.stderr
    )
    assert not [p for p in scratch.iterdir() if p.name.startswith(("tmp", "sparsekit"))]
    (folder,) = tmp_path.glob("multirun/*/*")
    before = (folder / "0" / "summary.json").stat().st_mtime_ns

    poison(tmp_path, s4="raise")
    done = sweep(tmp_path, "seed=1,2,3,4,5,6", code=1)
    assert ran(tmp_path) == ["2", "3", "6"]
    assert "1 of 6 jobs failed" in done.stderr
    assert "completed earlier" in done.stdout
    assert list(tmp_path.glob("multirun/*/*")) == [folder]
    assert (folder / "0" / "summary.json").stat().st_mtime_ns == before
    known = read_record(folder)
    assert known is not None
    assert [job.folder.name for job in known[1] if job.folder] == ["0", "5", "6", "7", "4", "8"]


@pytest.mark.slow
def test_none_leaves_failed_jobs_and_all_runs_all(tmp_path: Path) -> None:
    poison(tmp_path, s2="exit")
    sweep(tmp_path, BASIC, "seed=1,2", code=1)
    assert ran(tmp_path) == ["1"]
    done = sweep(tmp_path, BASIC, "seed=1,2,3", "sweep.rerun=none", code=1)
    assert ran(tmp_path) == ["3"]
    assert "the job exited: error: a mistake" in done.stderr
    sweep(tmp_path, BASIC, "seed=1,3", "sweep.rerun=all")
    assert ran(tmp_path) == ["1", "3"]
    assert len(list(tmp_path.glob("multirun/*/*"))) == 2
    done = sweep(tmp_path, BASIC, "seed=1,2", "sweep.rerun=some", code=1)
    assert "sweep.rerun='some' must be one of failed, all, none" in done.stderr


@pytest.mark.slow
def test_a_bad_override_fails_its_job_alone(tmp_path: Path) -> None:
    done = sweep(tmp_path, BASIC, "student=quickstart,nobody", "seed=1,2", code=1)
    assert ran(tmp_path) == ["1", "2"]
    assert "2 of 4 jobs failed" in done.stderr
    nobody = "(student=nobody seed=1): failed: student=nobody: the group student has no nobody"
    assert nobody in done.stderr
    assert list(statuses(tmp_path).values()) == ["completed", "completed", "failed", "failed"]
    done = sweep(tmp_path, BASIC, "seed=1", "student.sparsitty=0.5,0.8", code=1)
    assert ran(tmp_path) == []
    assert "no key student.sparsitty; did you mean student.sparsity?" in done.stderr


@pytest.mark.slow
def test_fail_fast_stops_at_the_first_failure(tmp_path: Path) -> None:
    poison(tmp_path, s2="raise")
    done = sweep(tmp_path, BASIC, "seed=1,2,3", "sweep.fail_fast=true", code=1)
    assert ran(tmp_path) == ["1"]
    assert "- 2 (seed=3): unfinished" in done.stderr
    poison(tmp_path)
    sweep(tmp_path, BASIC, "seed=1,2,3", "sweep.fail_fast=true")
    assert ran(tmp_path) == ["2", "3"]


@pytest.mark.slow
def test_a_stopped_sweep_takes_its_jobs_along_and_goes_on_later(tmp_path: Path) -> None:
    poison(tmp_path, s1="stop")
    done = sweep(tmp_path, "seed=1,2", code=128 + signal.SIGTERM)
    assert "stopped by SIGTERM; repeat the command to run the remaining jobs" in done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid.txt").read_text()), 0)
    assert ran(tmp_path) == []
    poison(tmp_path)
    sweep(tmp_path, "seed=1,2")
    assert ran(tmp_path) == ["1", "2"]


@pytest.mark.slow
def test_an_interrupted_job_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """In its own folder; a failed job without a checkpoint starts anew, in a folder of its own."""
    poison(tmp_path, s1="interrupt", s2="raise", s3="kill")
    sweep(tmp_path, "seed=1,2,3,4", code=1)
    assert ran(tmp_path) == ["4"]
    (folder,) = tmp_path.glob("multirun/*/*")
    # As the sweep leaves it if it is killed along with its job.
    (folder / "0" / "summary.json").unlink()
    poison(tmp_path)
    sweep(tmp_path, "seed=1,2,3,4")
    assert ran(tmp_path) == ["1", "2", "3"]
    assert (tmp_path / "resumed.txt").read_text() == f"1 {folder / '0'}"
    known = read_record(folder)
    assert known is not None
    assert [job.folder.name for job in known[1] if job.folder] == ["0", "5", "6", "3"]
    assert known[1][0].overrides == ["dataset=quickstart", "seed=1"]
    completed = [name for name, status in statuses(tmp_path).items() if status == "completed"]
    assert completed == ["0", "3", "5", "6"]


@pytest.mark.slow
def test_a_job_that_still_runs_elsewhere_is_not_resumed(tmp_path: Path) -> None:
    poison(tmp_path, s1="interrupt")
    sweep(tmp_path, "seed=1", code=1)
    (folder,) = tmp_path.glob("multirun/*/*")
    poison(tmp_path)
    with RunFolder(folder / "0").lock():
        sweep(tmp_path, "seed=1")
    assert not (tmp_path / "resumed.txt").exists()
    assert statuses(tmp_path) == {"0": "failed", "1": "completed"}


@pytest.mark.slow
def test_a_job_of_another_sweep_is_not_run_again(tmp_path: Path) -> None:
    sweep(tmp_path, BASIC, "seed=1,2", "recipe.num_epochs=6")
    assert ran(tmp_path) == ["1", "2"]
    # The same configs by other axes; a double counts once.
    sweep(tmp_path, BASIC, "recipe.num_epochs=6,7,7", "seed=2")
    assert ran(tmp_path) == ["2"]
    folders = [len(list(f.glob("*/summary.json"))) for f in sorted(tmp_path.glob("multirun/*/*"))]
    assert folders == [2, 1]


@pytest.mark.slow
def test_a_sweep_that_runs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with FileLock(tmp_path / "here" / ".sweep.lock"):
        done = sweep(tmp_path, BASIC, "seed=1", "hydra.sweep.dir=here", code=1)
    assert "another process runs the sweep in here" in done.stderr
    sweep(tmp_path, BASIC, "seed=1", "hydra.sweep.dir=here")
    assert (tmp_path / "here" / "0" / "summary.json").is_file()


def test_a_run_on_other_data_is_not_the_jobs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One without a record of its data, of an earlier version, counts as before."""

    def run(name: str, data_files: str | None) -> tuple[Path, Ending]:
        summary = {"config": {"hash": "x", "data_files": data_files}}
        return tmp_path / name, Ending(status="completed", hash="x", summary=summary)

    def left(*runs: tuple[Path, Ending]) -> tuple[list[Job], Job]:
        job = Job(overrides=["a=1"], hash="x", data_files="new")
        return to_run([job], {"x": runs}, "failed", lambda run, job: False), job

    missing, job = left(run("0", "old"))
    assert missing == [job]
    assert f"{tmp_path / '0'} has run on other data" in caplog.text
    missing, job = left(run("0", "old"), run("1", "new"), run("2", "other"))
    assert (missing, job.folder, job.reused) == ([], tmp_path / "1", True)
    assert left(run("0", None))[0] == []


def test_a_run_on_another_model_of_the_same_name_is_not_the_jobs(tmp_path: Path) -> None:
    job = Job(overrides=["a=1"], hash="x", models="new")
    for recorded, missing in (("old", [job]), ("new", []), (None, [])):
        summary = {"config": {"hash": "x", "models": recorded}}
        runs = [(tmp_path / "0", Ending(status="completed", hash="x", summary=summary))]
        assert to_run([job], {"x": runs}, "failed", lambda run, job: False) == missing


def test_a_job_knows_its_texts_without_labels_too(
    csv_files: dict[str, str], tmp_path: Path
) -> None:
    """As its run does, which records the hash of all files: else none would ever count as done."""
    more = tmp_path / "more.csv"
    more.write_text("text\nfine\n")
    files = {"data_files": csv_files, "format": "csv", "unlabeled": str(more)}
    source = FileDataset(data_files=dict(csv_files), format="csv")
    data = {
        "task": {"_target_": "sparsekit.tasks.text_classification.TextClassification"},
        "dataset": {"_target_": "sparsekit.data.datasets.FileDataset", **files},
    }
    recorded = MoreTexts(unlabeled=str(more)).files_hash(source.files_hash())
    assert _data_files(json.dumps(data)) == recorded != source.files_hash()


def parsed(*overrides: str) -> list:
    return OverridesParser.create().parse_overrides(list(overrides))


def test_axes_expand_in_order_and_the_last_word_counts() -> None:
    jobs, axes = expand(parsed("a=1", "b=x,y", "c=range(0,2)", "a=2,3", "~d", "+e={f:1}"))
    assert axes == ["a", "b", "c"]
    assert jobs[:2] == [
        ["a=2", "b=x", "c=0", "~d", "+e={f:1}"],
        ["a=2", "b=x", "c=1", "~d", "+e={f:1}"],
    ]
    assert len(jobs) == 8


@pytest.mark.parametrize(
    ("override", "problem"),
    [("seed=range(2,2)", "seed=range.* has no values"), ("a=interval(0,1)", "is an interval")],
)
def test_an_axis_without_values_is_refused(override: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        expand(parsed(override))


def test_a_sweep_is_known_by_its_axes_and_fixed_values() -> None:
    key = sweep_key(parsed("a=1", "b=1,2"))
    assert key == sweep_key(parsed("b=3,4,5", "a=1", "hydra.launcher.n_jobs=2", "sweep.rerun=none"))
    assert key != sweep_key(parsed("a=2", "b=1,2"))
    assert key != sweep_key(parsed("a=1,2", "b=1"))


def test_a_record_cut_short_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    (tmp_path / "sweep.json").write_text('{"key": "a", "jo')
    assert read_record(tmp_path) is None
    assert to_run([Job(overrides=["a=1"], hash="x")], {}, "failed", lambda run, job: False)


def test_the_table_names_each_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep over runtimes, or one whose runs were timed again, has latencies of several."""
    jobs = []
    for number, runtimes in enumerate((["onnxruntime"], ["sparse", "onnxruntime"], [])):
        folder = tmp_path / str(number)
        folder.mkdir()
        timings = {name: {"latency_ms_p50": len(name) + number} for name in runtimes}
        (folder / "summary.json").write_text(
            json.dumps({"status": "completed", "runtime": timings})
        )
        jobs.append(Job(overrides=[f"seed={number}"], folder=folder))
    view = summary_table(jobs, ["seed"], tmp_path)
    cells = {str(column.header): [str(cell) for cell in column.cells] for column in view.columns}
    assert cells["onnxruntime\nms"] == ["11.00", "12.00", ""]
    assert cells["sparse\nms"] == ["", "7.00", ""]
    monkeypatch.setenv("COLUMNS", "40")
    show(view)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("onnxruntime", "sparse", "12.00", "completed"))
