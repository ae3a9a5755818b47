"""`torchrun --nproc_per_node=2 launch.py`: one model of two processes, one run folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from launching import TAUGHT_BY_ITSELF, local, run_here
from project import ROOT
from safetensors.torch import load_file

from sparsekit.training.checkpoints import newest_whole


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    return subprocess.run(
        [*command, str(ROOT / "launch.py"), *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.slow
def test_two_processes_train_one_model_into_one_folder(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    (tmp_path / "tmp").mkdir()
    done = torchrun(
        tmp_path,
        "dataset=csv",
        *(f"dataset.data_files.{split}={path}" for split, path in csv_files.items()),
        f"student.checkpoint={student_folder}",
        *TAUGHT_BY_ITSELF,
        "training=smoke",
        "training.max_steps=4",
        "tracking=offline",
        "runtime=none",
    )
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    assert done.stdout.count("run: ") == 1
    assert not list((tmp_path / "tmp").glob("sparsekit-process-*"))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["train"]["steps"] == 4
    assert summary["export"]["verified"] is True
    assert len(list(run.glob("wandb/offline-run-*"))) == 1
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluated = [event["eval_loss"] for event in events if "eval_loss" in event]
    assert len(evaluated) == len({event["epoch"] for event in events if "eval_loss" in event})
    # A loss is a mean over examples, however many processes share them.
    rows = pq.read_table(run / "evaluation" / "validation.parquet").to_pydict()
    logits = np.array(rows["logits"])
    chosen = logits[np.arange(len(logits)), rows["label"]]
    expected = float(np.mean(np.logaddexp.reduce(logits, axis=1) - chosen))
    assert evaluated[-1] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_a_stopped_job_of_two_processes_saves_a_checkpoint(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    """Also where every process gets the signal, and torchrun's a second time from torchrun."""
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    settings = [*local(csv_files, student_folder), "training.max_steps=100000", "export=none"]
    process = subprocess.Popen(
        [*command, str(ROOT / "launch.py"), *settings, f"output_dir={tmp_path}/run"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    try:
        while (
            not (metrics.is_file() and '"loss"' in metrics.read_text()) and process.poll() is None
        ):
            time.sleep(0.1)
        # Where it has ended, what it wrote says why.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        _, shown = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode != 0
    assert "saving a checkpoint after step" in shown, shown
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("failed", "stopped by SIGTERM")
    newest = newest_whole(tmp_path / "run" / "checkpoints")
    assert newest is not None
    state = json.loads((newest / "trainer_state.json").read_text())
    assert newest.name == f"checkpoint-{state['global_step']}"
    assert f"saving a checkpoint after step {state['global_step']}" in shown


@pytest.mark.slow
def test_two_processes_train_as_one_with_a_batch_twice_as_large(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    (tmp_path / "tmp").mkdir()
    student = shutil.copytree(student_folder, tmp_path / "student")
    config = json.loads((student / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (student / "config.json").write_text(json.dumps(config))
    settings = [*local(csv_files, str(student)), "export=none"]
    # Adam would scale up the rounding of gradients that are almost zero.
    settings += ["training.precision=fp32", "training.optim=sgd"]
    done = torchrun(
        tmp_path,
        *settings,
        "tracking=none",
        f"output_dir={tmp_path}/two",
        "training.per_device_train_batch_size=4",
    )
    assert done.returncode == 0, done.stderr
    run_here(tmp_path / "one", *settings, "training.per_device_train_batch_size=8")
    one, two = (
        load_file(tmp_path / folder / "model" / "model.safetensors") for folder in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_sweeps_do_not_start_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    done = torchrun(tmp_path, "-m", "dataset=quickstart", "seed=1,2")
    assert done.returncode != 0
    assert "torchrun trains one job" in done.stderr
