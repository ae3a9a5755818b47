"""`sparsekit rerun RUN`: the same bits, or what differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from launching import TAUGHT_BY_ITSELF, launch, local
from safetensors.numpy import load_file, save_file

from sparsekit.runs.folder import RunFolder
from sparsekit.runs.reproduction import differences, other_weights


@pytest.mark.slow
def test_a_run_is_repeated_to_the_same_bits(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    settings = " ".join([*local(csv_files, student_folder), *TAUGHT_BY_ITSELF])
    options = "export=none tracking=none hydra.run.dir=run"
    done = launch(f"{settings} {options}", tmp_path, dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    again = subprocess.run(
        [sys.executable, "-m", "sparsekit", "rerun", str(tmp_path / "run")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert "weights: the same bits" in again.stdout
    assert "\nmetrics" not in again.stdout
    assert RunFolder(tmp_path / "run-rerun").ending.status == "completed"


def made(folder: Path, weight: float, accuracy: float) -> RunFolder:
    run = RunFolder(folder)
    run.model.mkdir(parents=True)
    save_file({"a": np.full(4, weight, np.float32), "b": np.ones(2, np.float32)}, run.weights)
    environment = {"packages": {"torch": "2.13"}, "cores": 2}
    run.write_summary(
        {"metrics": {"validation": {"accuracy": accuracy}}, "environment": environment}
    )
    return run


def test_what_differs_is_named(tmp_path: Path) -> None:
    first, same = made(tmp_path / "1", 1.0, 0.5), made(tmp_path / "2", 1.0, 0.5)
    assert other_weights(first, same) is None
    assert list(differences(first, same)) == []
    other = made(tmp_path / "3", 1.5, 0.25)
    summary = json.loads(other.summary_file.read_text())
    summary["environment"]["packages"]["torch"] = "2.14"
    other.write_summary(summary)
    assert other_weights(first, other) == "1 of 2 tensors differ, by 0.5 at most, such as a"
    assert list(differences(first, other)) == [
        "metrics.validation.accuracy: 0.5, now 0.25",
        "environment.packages.torch: 2.13, now 2.14",
    ]
    weights = load_file(other.weights)
    save_file({"a": weights["a"]}, other.weights)
    assert other_weights(first, other) == "1 tensors are in one of the runs alone"


def test_a_run_without_weights_is_refused(tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "sparsekit", "rerun", str(tmp_path)], capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "to compare with: it did not finish" in refused.stderr
