"""A user whose HOME cannot be entered is told which variable to set, and needs no other home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import ROOT

NOBODY = 65534


@pytest.fixture
def stranger() -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder of another user's, and his environment."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root may become another user, by setpriv")
    # Not tmp_path: each session of pytest closes the folder above to other users.
    with tempfile.TemporaryDirectory(prefix="sparsekit-home-") as name:
        above = Path(name)
        above.chmod(0o755)
        home, work = above / "home", above / "work"
        home.mkdir(mode=0o000)
        work.mkdir()
        os.chown(work, NOBODY, NOBODY)
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
        known = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLCONFIGDIR": str(work)}
        if _run(work, environment, "-c", "import sparsekit").returncode:
            pytest.skip(f"other users cannot read {ROOT} or its Python")
        yield work, environment | known


def _run(
    folder: Path, environment: dict[str, str], *words: str
) -> subprocess.CompletedProcess[str]:
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return subprocess.run(
        [*user, sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_every_command_works_or_names_the_variable_to_set(
    stranger: tuple[Path, dict[str, str]], student_folder: str, csv_files: dict[str, str]
) -> None:
    work, environment = stranger
    student = shutil.copytree(student_folder, work / "student")
    rows = {split: shutil.copy(path, work / f"{split}.csv") for split, path in csv_files.items()}
    for path in work.rglob("*"):
        os.chown(path, NOBODY, NOBODY)
    train = [
        *(str(ROOT / "launch.py"), "dataset=csv", "training=smoke", "training.max_steps=4"),
        *(f"dataset.data_files.{split}={path}" for split, path in rows.items()),
        *(f"student.checkpoint={student}", "tracking=none", "runtime=none", "output_dir=run"),
    ]
    sparsekit = ["-m", "sparsekit"]
    predict = [*sparsekit, "predict", "run", "warm and witty", "--runtime"]
    refused = [(train, environment, "HF_HOME")]
    with_metrics = environment | {"HF_HOME": str(work / "hf")}
    refused.append((train, with_metrics, "SPARSEKIT_CACHE"))
    for words, given, variable in refused:
        done = _run(work, given, *words)
        assert done.returncode == 1
        assert f"set {variable} to a folder" in done.stderr, done.stderr[-3000:]
        assert "Traceback" not in done.stderr
    done = _run(work, with_metrics | {"SPARSEKIT_CACHE": str(work / "cache")}, *train)
    assert done.returncode == 0, done.stderr[-2000:]
    for words in ([*sparsekit, "inspect", "run"], [*predict, "onnxruntime"]):
        done = _run(work, environment, *words)
        assert done.returncode == 0, done.stderr[-2000:]
    done = _run(work, environment, *predict, "sparse")
    assert done.returncode == 0 or "set SPARSEKIT_CACHE to a folder" in done.stderr
    for words in ([*predict, "sparse"], [*sparsekit, "doctor"]):
        done = _run(work, environment, *words)
        assert "Traceback" not in done.stdout + done.stderr
