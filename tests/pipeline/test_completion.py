"""A failed run is completed by hand only where nothing of it is missing or other than it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from launching import TAUGHT_BY_ITSELF, local, run_here
from run_folder import quantization, write_run
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.config.identity import identity_hash
from sparsekit.errors import UserError
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.pipeline.completion import completed
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.paths import MARKER

TIMING = {"latency_ms_p50": 1.0, "latency_ms_p99": 1.0, "items_per_second": 1.0}


def sparsekit(*words: object) -> tuple[str, str]:
    """Run the command; what it said on stdout, and on stderr."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("stage", ["gating.export_run", "experiment.benchmark"])
def test_one_command_completes_what_a_run_lacked(
    tmp_path: Path,
    csv_files: dict[str, str],
    student_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    killed: bool,
) -> None:
    """Stopped by SIGTERM, a run still writes its summary; killed, it leaves that of before."""
    choices = [*local(csv_files, student_folder)[:-1], "runtime.requests=3", "runtime.batches=2"]
    before: list[bytes] = []

    def stopped(*_: Any) -> None:
        before.append((tmp_path / "summary.json").read_bytes())
        raise KeyboardInterrupt("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(f"sparsekit.pipeline.{stage}", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_here(tmp_path, *choices, *TAUGHT_BY_ITSELF, "export.verify=false")
    if killed:
        (tmp_path / "summary.json").write_bytes(before[0])
        end = RunFolder(tmp_path).ending
        assert end.status == "unfinished"
        assert f"complete it: sparsekit export {tmp_path}" in str(end.error)
    shown, errors = sparsekit("export", tmp_path)
    assert "run completed" in shown
    assert "stays failed" not in errors
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("completed", None)
    assert summary["runtime"] and summary["export"] and summary["metrics"]


def test_a_run_killed_before_its_evaluation_is_resumed(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    with pytest.raises(UserError, match=rf"go on with it: sparsekit resume {tmp_path}$"):
        _ = RunFolder(tmp_path).summary


@pytest.fixture(scope="module")
def failed(
    tmp_path_factory: pytest.TempPathFactory, student_folder: str
) -> tuple[Path, dict[str, Any]]:
    """A run that lacks nothing, and the summary in which it failed as it was pushed."""
    run = write_run(tmp_path_factory.mktemp("run"), student_folder, quantization())
    Recipe.build({"num_epochs": 2, "modifiers": {}}).save(run / "model" / "recipe.yaml", {})
    node = {"_target_": "sparsekit.onnx.export.ExportConfig", "push_to_hub": "me/reviews"}
    settings = {
        "dataset": {"metrics": ["accuracy"], "max_length": 32},
        "export": node | {"max_metric_drop": 0.1},
        "runtime": {"_target_": "sparsekit.benchmark.requests.BenchmarkConfig"},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    result = export(run, ExportConfig(max_metric_drop=0.1))
    return run, {
        "status": "failed",
        "error": "cannot push to the Hub",
        "config": {"hash": identity_hash(settings)},
        "metrics": {"validation": {}},
        "train": {"steps": 4},
        "export": result,
        "runtime": {"onnxruntime": TIMING},
        "pushed": "https://huggingface.co/me/reviews",
    }


def test_a_run_that_lacks_nothing(failed: tuple[Path, dict[str, Any]]) -> None:
    run, summary = failed
    assert completed(RunFolder(run), summary) == (
        {**summary, "status": "completed", "error": None},
        None,
    )


def test_a_stage_that_the_config_leaves_out_is_not_lacking(
    failed: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, summary = failed
    # What runtime=none and export=none leave; a deployment may be exported all the same.
    without = {group: {"_target_": None, "push_to_hub": "me/it"} for group in ("runtime", "export")}
    monkeypatch.setattr(RunFolder, "config", {**RunFolder(run).config, **without})
    changed = {k: v for k, v in summary.items() if k not in ("runtime", "pushed")}
    changed["config"] = {"hash": identity_hash(RunFolder(run).config)}
    assert completed(RunFolder(run), changed)[1] is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: s.pop("metrics"), "it failed before its model was evaluated: run it again"),
        (lambda s: s.pop("train"), "it failed before its model was evaluated: run it again"),
        (lambda s: s.pop("config"), "its config.yaml is not what it began with"),
        (lambda s: s["config"].update(hash="0"), "its config.yaml is not what it began with"),
        (lambda s: s.pop("export"), "it has no deployment yet: sparsekit export RUN"),
        (lambda s: s.pop("runtime"), "it was not timed yet: sparsekit export RUN"),
        (lambda s: s.pop("pushed"), "not pushed to the Hub yet: sparsekit export RUN"),
        (lambda s: s["export"].update(zero_fraction=0.99), "check 'zero_fraction' failed"),
    ],
)
def test_what_keeps_a_run_failed(
    failed: tuple[Path, dict[str, Any]], change: Callable[[dict[str, Any]], None], why: str
) -> None:
    run, summary = failed
    changed = json.loads(json.dumps(summary))
    change(changed)
    same, lacking = completed(RunFolder(run), changed)
    assert same == changed
    assert lacking is not None and why in lacking


def test_a_completed_run_stays_so(tmp_path: Path) -> None:
    """Whatever it lacks: `sparsekit benchmark` judges no run that ended well."""
    assert completed(RunFolder(tmp_path), {"status": "completed"}) == (
        {"status": "completed"},
        None,
    )
