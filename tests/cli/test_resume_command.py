"""`sparsekit resume RUN`: an interrupted run goes on in its own folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import launch, local


def resume(run: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparsekit", "resume", str(run)],
        cwd=folder,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_was_started(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    """Also where its data were named relative to that folder."""
    for split, path in csv_files.items():
        shutil.copy(path, tmp_path / f"{split}.csv")
    files = {split: f"{split}.csv" for split in csv_files}
    settings = " ".join(local(files, student_folder))
    saving = "export=none tracking=none training.save_strategy=steps +training.save_steps=2"
    keeping = "training.save_total_limit=5 hydra.run.dir=run"
    done = launch(f"{settings} {saving} {keeping}", tmp_path, dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    run = tmp_path / "run"
    weights = (run / "model" / "model.safetensors").read_bytes()
    before = json.loads((run / "summary.json").read_text())
    # As a run that was killed after its third step leaves it.
    shutil.rmtree(run / "checkpoints" / "checkpoint-4")
    shutil.rmtree(run / "model")
    (run / "summary.json").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    resumed = resume(run, elsewhere)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert (run / "model" / "model.safetensors").read_bytes() == weights
    after = json.loads((run / "summary.json").read_text())
    assert after["status"] == "completed"
    assert after["config"]["hash"] == before["config"]["hash"]
    again = resume(run, elsewhere)
    assert again.returncode == 1
    assert "is completed: there is nothing to resume" in again.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [("empty", "train(resume_from_checkpoint=True)"), ("missing", "there is no run folder")],
)
def test_a_folder_that_no_launcher_made_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    refused = resume(tmp_path / name, tmp_path)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
