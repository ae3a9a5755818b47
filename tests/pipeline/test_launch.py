"""The launcher as a user runs it, against a Hub on loopback, and what it says to bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_seed
import pytest
import torch
import wandb_file
from csv_files import write_csv
from datasets import Dataset
from hub import serve
from launching import TAUGHT_BY_ITSELF, launch, local, run_here
from project import ROOT
from transformers import AutoModelForSequenceClassification

from sparsekit.errors import UserError
from sparsekit.runs.folder import RunFolder
from sparsekit.training.recipe_trainer import RecipeTrainer


@pytest.fixture(scope="module")
def hub_environment(
    seed_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The environment of a user whose Hub is the one on loopback."""
    home = tmp_path_factory.mktemp("home")
    with serve(seed_folder) as hub:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "WANDB_"))}
        theirs = hub.environment(home / "hf")
        # Users do not set it, so loading must not need it.
        del theirs["DISABLE_SAFETENSORS_CONVERSION"]
        yield (
            kept
            | theirs
            | {
                "HOME": str(home),
                "SPARSEKIT_CACHE": str(home / "sparsekit"),
                "OMP_NUM_THREADS": "1",
            }
        )


@pytest.mark.slow
def test_the_seeds_command_verbatim(tmp_path: Path, hub_environment: dict[str, str]) -> None:
    done = launch("dataset=rotten_tomatoes teacher=textattack", tmp_path, hub_environment)
    assert done.returncode == 0, done.stderr[-3000:]
    last = done.stdout.splitlines()[-1]
    assert last.startswith("run: ")
    folder = tmp_path / last.removeprefix("run: ")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert set(summary["metrics"]) == {"validation", "test"}
    assert summary["sparsity"]["overall"] == pytest.approx(0.9, abs=1e-3)
    assert len(summary["quantization"]["modules"]) == 3 + 2 * 6 + 2
    assert summary["export"]["verified"] is True
    assert summary["export"]["int8_matmuls"] == 2 * 6 + 2
    assert summary["runtime"]["onnxruntime"]["latency_ms_p50"] > 0
    assert summary["train"]["steps"] == 13 * hub_seed.ROWS["train"] // 32
    assert summary["config"]["teacher"] == "textattack"
    for name in (
        "config.yaml",
        "recipe.yaml",
        "schedule.json",
        "metrics.jsonl",
        "benchmark.json",
        "model/model.safetensors",
        "model/recipe.yaml",
        "deployment/model.onnx",
        "deployment/README.md",
        "checkpoints/trainer_state.json",
        "checkpoints/checkpoint-39/optimizer.pt",
        "checkpoints/checkpoint-39/scheduler.pt",
    ):
        assert (folder / name).is_file(), name
    assert list(folder.glob("wandb/offline-run-*"))
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [event for event in events if "kd_loss" in event]
    assert len(epochs) == 13
    assert [event["quantizers_on"] for event in epochs] == [0.0] * 8 + [1.0] * 5


@pytest.mark.slow
def test_a_sweep_makes_a_run_of_each_job(tmp_path: Path, hub_environment: dict[str, str]) -> None:
    done = launch(
        "-m dataset=rotten_tomatoes teacher=textattack training=smoke training.max_steps=8 "
        "recipe.distill_hardness=0.0,1.0 recipe.qat_epochs=0,2 runtime=none",
        tmp_path,
        hub_environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folders = sorted(tmp_path.glob("multirun/*/*/*/summary.json"))
    summaries = [json.loads(path.read_text()) for path in folders]
    assert len(summaries) == 4
    assert len({summary["config"]["hash"] for summary in summaries}) == 4
    assert [len(s["quantization"]["modules"]) for s in summaries] == [0, 17, 0, 17]
    assert ["teacher" in s for s in summaries] == [False, False, True, True]
    files = sorted(tmp_path.glob("multirun/*/*/*/wandb/offline-run-*/*.wandb"))
    mirrors = [wandb_file.read(path) for path in files]
    assert len(mirrors) == 4
    assert len({mirror.group for mirror in mirrors}) == 1
    swept = ("recipe.distill_hardness", "recipe.qat_epochs")
    assert [tuple(mirror.config[key] for key in swept) for mirror in mirrors] == [
        (0.0, 0),
        (0.0, 2),
        (1.0, 0),
        (1.0, 2),
    ]
    for mirror, summary in zip(mirrors, summaries, strict=True):
        assert mirror.exit_code == 0
        shown = mirror.summary
        assert shown["validation/accuracy"] == summary["metrics"]["validation"]["accuracy"]
        assert shown["sparsity"] == summary["sparsity"]["overall"]
        assert shown["export/bytes"] == summary["export"]["bytes"]


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("--cfg job dataset=rotten_tomatoes", "num_epochs: 13"),
        ("--help", "recipe.qat_epochs"),
        ("", "rotten_tomatoes"),
        ("dataset=rotten_tomatos", "did you mean rotten_tomatoes"),
        ("-m dataset=rotten_tomatoes recipe.epochs=1,2", "did you mean recipe.qat_epochs"),
    ],
)
def test_what_trains_nothing_imports_no_torch(words: str, printed: str, tmp_path: Path) -> None:
    """An answer takes one second instead of six."""
    code = f"""
import runpy, sys

sys.argv = ["launch.py", *{words.split()!r}]
try:
    runpy.run_path({str(ROOT / "launch.py")!r}, run_name="__main__")
finally:
    assert not {{"torch", "transformers", "datasets"}} & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "AssertionError" not in done.stderr
    assert printed in done.stdout + done.stderr


def test_a_mistake_ends_in_one_message_and_code_1(
    tmp_path: Path, hub_environment: dict[str, str]
) -> None:
    done = launch(
        "dataset=rotten_tomatoes recipe.qat_epochs=20 recipe.init_lr=-1 student.sparsity=2",
        tmp_path,
        hub_environment,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for problem in ("start -7 lies before epoch 0", "init_lr -1", "student.sparsity 2"):
        assert problem in done.stderr
    (path,) = tmp_path.glob("outputs/*/*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["status"] == "failed"
    assert "start -7" in summary["error"]
    assert not (path.parent / "model").exists()


def test_runs_that_start_in_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    first, second, third = (
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"from sparsekit.runs.creation import new_folder as n; print(n({name!r}))",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for name in ("outputs/10-00-00",) * 2 + ("outputs/10-00-00-2",)
    )
    assert (first, second, third) == (
        "outputs/10-00-00",
        "outputs/10-00-00-2",
        "outputs/10-00-00-2-2",
    )


def test_a_folder_in_use_and_one_that_cannot_be_made_are_refused(
    tmp_path: Path, hub_environment: dict[str, str]
) -> None:
    with RunFolder(tmp_path).lock():
        done = launch(f"dataset=quickstart hydra.run.dir={tmp_path}", tmp_path, hub_environment)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: another process is running in {tmp_path}: wait for it")
    assert not (tmp_path / "summary.json").exists()
    (tmp_path / "outputs").write_text("not a folder")
    done = launch("dataset=quickstart", tmp_path, hub_environment)
    assert done.returncode == 1
    assert "cannot make the run folder" in done.stderr
    assert "set hydra.run.dir=FOLDER" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["", "-m seed=1,2"])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, words: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    key = "hydra.sweep.dir" if words else "hydra.run.dir"
    done = launch(f"dataset=quickstart {key}=file/run {words}", tmp_path, dict(os.environ))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(f"error: cannot write to {key}=file/run: ")


def test_help_and_a_printed_config_leave_nothing_behind(tmp_path: Path) -> None:
    shown = launch("--help", tmp_path, dict(os.environ))
    assert shown.returncode == 0, shown.stderr
    assert "python launch.py experiments=quickstart" in shown.stdout
    assert "this_command" not in shown.stdout
    mistaken = launch("--help dataset=none", tmp_path, dict(os.environ))
    assert mistaken.returncode == 1
    assert mistaken.stderr.startswith("error: dataset=none: the group dataset has no none;")
    assert launch("dataset=quickstart --cfg all --resolve", tmp_path, dict(os.environ)).stdout
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_hub_names_the_id_and_the_way_out(
    tmp_path: Path, hub_environment: dict[str, str]
) -> None:
    files = {s: write_csv(tmp_path / f"{s}.csv", hub_seed.reviews(8, 1)) for s in "ab"}
    gone = hub_environment | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    done = launch(
        f"dataset=csv dataset.data_files.train={files['a']} "
        f"dataset.data_files.validation={files['b']} teacher=textattack",
        tmp_path,
        gone,
    )
    assert done.returncode == 1
    assert "oBERT-12-upstream-pruned-unstructured-90" in done.stderr
    assert "student.checkpoint=FOLDER" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name",
    ["SIGTERM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGHUP", "SIGINT"))],
)
def test_a_stopped_run_says_so(tmp_path: Path, hub_environment: dict[str, str], name: str) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "launch.py"), "dataset=rotten_tomatoes"),
            *(
                *TAUGHT_BY_ITSELF,
                "tracking=none",
                "recipe.num_epochs=2000",
                f"output_dir={tmp_path}/run",
            ),
        ],
        env=hub_environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell ignore SIGINT, those of nohup SIGHUP, and so would these.
        preexec_fn=lambda: signal.signal(signal.Signals[name], signal.SIG_DFL),
    )
    run_folder = tmp_path / "run"
    while not list(run_folder.glob("checkpoints/*/trainer_state.json")) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.Signals[name])
    try:
        _, shown = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.Signals[name]
    assert "Traceback" not in shown
    assert "HTTP Request" not in shown
    assert f"sparsekit resume {tmp_path}/run\n" in shown
    written = [path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")]
    if name != "SIGINT":
        # One was saved first, after the step at which the signal came.
        (step,) = re.findall(rf"{name}: saving a checkpoint after step (\d+)", shown)
        assert written == [f"checkpoint-{step}"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("failed", f"stopped by {name}")


def test_a_run_that_is_stopped_while_it_imports_has_a_summary(
    tmp_path: Path, hub_environment: dict[str, str]
) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "launch.py"), "dataset=rotten_tomatoes"),
            *("teacher=self", "tracking=none", f"hydra.run.dir={tmp_path}/run"),
        ],
        env=hub_environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Hydra writes there right before the job, which begins with its imports.
    while not (tmp_path / "run" / ".hydra").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    try:
        _, shown = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, shown
    assert shown == "stopped by SIGTERM\n"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary.pop("sum")
    assert summary == {"status": "failed", "error": "stopped by SIGTERM"}


# In this process from here on: the same `run`, without the seconds that an interpreter takes.


def test_several_processes_are_told_how_to_get_their_teacher(
    tmp_path: Path,
    csv_files: dict[str, str],
    student_folder: str,
    teacher_folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not by a run of other arguments, such as max_steps: it would make another teacher."""
    monkeypatch.setattr("sparsekit.pipeline.experiment.PROCESSES", 2)
    choices = [*local(csv_files, student_folder), "teacher=finetuned"]
    with pytest.raises(UserError, match=r"run this command once without torchrun, and stop it"):
        run_here(tmp_path, *choices, f"teacher.base={teacher_folder}")


@pytest.mark.slow
def test_a_teacher_is_finetuned_once(
    tmp_path: Path,
    csv_files: dict[str, str],
    student_folder: str,
    teacher_folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    choices = [
        *local(csv_files, student_folder),
        "teacher=finetuned",
        f"teacher.base={teacher_folder}",
    ]
    first = run_here(tmp_path / "first", *choices)
    (made,) = (tmp_path / "cache" / "teachers").glob("*/summary.json")
    before = made.stat().st_mtime_ns
    second = run_here(tmp_path / "second", *choices, "seed=7")
    assert first["status"] == second["status"] == "completed"
    assert made.stat().st_mtime_ns == before
    assert len(list((tmp_path / "cache" / "teachers").glob("*/summary.json"))) == 1
    assert json.loads(made.read_text())["sparsity"]["overall"] == 0
    assert first["teacher"] == second["teacher"]


def test_two_teachers_are_averaged(
    tmp_path: Path,
    csv_files: dict[str, str],
    student_folder: str,
    teacher_folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained_on: list[Dataset] = []

    class Kept(RecipeTrainer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            trained_on.append(self.train_dataset)

    monkeypatch.setattr("sparsekit.pipeline.engines.sparsekit.RecipeTrainer", Kept)
    other = shutil.copytree(teacher_folder, tmp_path / "other")
    models = [AutoModelForSequenceClassification.from_pretrained(teacher_folder) for _ in range(2)]
    with torch.no_grad():
        models[1].classifier.weight *= 0.5
        models[1].classifier.bias += torch.tensor([1.0, 2.0])
    models[1].save_pretrained(other)
    run_here(
        tmp_path / "run",
        *local(csv_files, student_folder),
        "teacher=checkpoint",
        f"teacher.checkpoint=[{teacher_folder},{other}]",
        "export=none",
    )
    [rows] = trained_on
    for row in rows.select(range(8)):
        with torch.no_grad():
            both = [model(torch.tensor([row["input_ids"]])).logits[0] for model in models]
        assert row["teacher_logits"] == pytest.approx((sum(both) / 2).tolist(), abs=1e-3)


def test_equal_runs_are_equal(
    tmp_path: Path,
    csv_files: dict[str, str],
    student_folder: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    choices = [*local(csv_files, student_folder), *TAUGHT_BY_ITSELF, "export=none"]
    first, second = (run_here(tmp_path / name, *choices) for name in ("a", "b"))
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert first["config"]["hash"] == second["config"]["hash"]
    assert "kd_loss" in (tmp_path / "a" / "metrics.jsonl").read_text()
    # Each event is one line, and not the Trainer's dictionary too.
    shown = capsys.readouterr()
    assert "epoch  0.33  validation loss" in shown.err
    assert "{'loss'" not in shown.out + shown.err


@pytest.mark.slow
def test_a_run_in_the_folder_of_an_earlier_one_replaces_it(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    choices = [*local(csv_files, student_folder), *TAUGHT_BY_ITSELF]
    first = run_here(tmp_path, *choices)
    events = len((tmp_path / "metrics.jsonl").read_text().splitlines())
    assert run_here(tmp_path, *choices)["metrics"] == first["metrics"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == events
    for mistake in ("dataset.label_column=stars", "dataset.data_files.train=nope.csv"):
        with pytest.raises(UserError):
            run_here(tmp_path, *choices, mistake)
        assert json.loads((tmp_path / "summary.json").read_text())["status"] == "completed"
        assert (tmp_path / "deployment" / "model.onnx").is_file()
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == events


def test_a_working_directory_that_looks_like_an_interpolation_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "${now:x}"
    folder.mkdir()
    done = launch("dataset=quickstart", folder, dict(os.environ))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"the working directory {folder} has ${{ in its name" in done.stderr
    assert list(folder.iterdir()) == []
