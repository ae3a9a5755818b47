"""A run exported again: what is left of the earlier deployment, also where the export fails."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from run_folder import write_run

from sparsekit.onnx.export import ExportConfig
from sparsekit.onnx.export import export as export_run
from sparsekit.pipeline.exporting import export_folder
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.summary import without_deployment

SUMMARY = {
    "status": "completed",
    "error": None,
    "metrics": {"validation": {"accuracy": 0.5}},
    "export": {"path": "deployment/model.onnx"},
    "gate": {"against": "/dense", "passed": True, "metrics": {}},
    "runtime": {"onnxruntime": {}},
    "pushed": "https://huggingface.co/me/reviews",
}
PLAIN = {"verify": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    folder = write_run(tmp_path_factory.mktemp("reexport"), student_folder, None)
    export_run(folder, ExportConfig(verify=False))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunFolder:
    """A completed run, exported, compared and timed."""
    run = RunFolder(Path(shutil.copytree(made, tmp_path / "run")))
    run.write_summary(SUMMARY)
    for file in (run.gate, run.gate_page, run.gate_changed, run.benchmark, run.benchmark_chart):
        file.write_text("{}")
    return run


def contents(run: RunFolder) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt("SIGTERM")])
def test_an_export_that_is_stopped_leaves_the_earlier_deployment(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before, meanwhile = contents(run), {}

    def stopped(*_: Any) -> None:
        meanwhile.update(run.summary)
        raise error

    monkeypatch.setattr("sparsekit.onnx.export.write_task", stopped)
    with pytest.raises(type(error)):
        export_folder(run, PLAIN)
    after = contents(run)
    after.pop(str(run.path / ".run.lock"), None)
    assert after == before
    # What is left of it where the process is killed.
    assert meanwhile["status"] == "unfinished" and "export" not in meanwhile
    assert meanwhile["error"].endswith(f"complete it: sparsekit export {run}")


def test_a_gate_that_is_stopped_leaves_no_deployment(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        assert run.summary["status"] == "unfinished"
        raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr("sparsekit.pipeline.gating.compare_with", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_folder(run, {**PLAIN, "gate": {"max_drop": 1.0}})
    assert not run.deployment.exists()
    assert run.ending.status == "failed" and run.ending.error == "stopped by SIGTERM"
    assert "export" not in run.summary and run.summary["gate"] == {"against": "/dense"}


def test_what_was_measured_of_the_earlier_file_goes(run: RunFolder) -> None:
    export_folder(run, PLAIN)
    summary = run.summary
    assert summary["status"] == "completed" and summary["export"]["fp32_matmuls"]
    assert not {"runtime", "pushed"} & summary.keys()
    assert summary["gate"] == {"against": "/dense"}
    for file in (run.gate, run.gate_page, run.gate_changed, run.benchmark, run.benchmark_chart):
        assert not file.exists()


def test_the_latency_that_was_measured_of_the_earlier_file_goes() -> None:
    latency = {"predicted_ms": 1.0, "measured_ms": 2.0}
    shape = without_deployment({"shape": {"heads": [1], "latency": latency}})["shape"]
    assert shape == {"heads": [1], "latency": {"predicted_ms": 1.0}}
