"""`export.gate`: a run whose model is not shown to be as good as the dense one is not deployed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from run_folder import turn_around, write_run
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.config.identity import identity_hash
from sparsekit.errors import ConfigError, UserError
from sparsekit.gate.statistics import compare_accuracies
from sparsekit.models.loading import Student
from sparsekit.models.teacher import Checkpoint, NoTeacher, Self
from sparsekit.onnx.export import ExportConfig
from sparsekit.onnx.sums import check_sums
from sparsekit.pipeline.gating import gate_problems, gated_export, record_baseline, report_prospects
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.report import rows
from sparsekit.tasks.base import Data, Task
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.regression import Regression
from sparsekit.tasks.text_classification import TextClassification


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> dict[str, Path]:
    """Runs before their export; the second answers the opposite of the first."""
    folder = tmp_path_factory.mktemp("gating")
    for name in ("good", "opposite"):
        (folder / name).mkdir()
    return {
        "good": write_run(folder / "good", student_folder, None),
        "opposite": write_run(folder / "opposite", student_folder, None, change=turn_around),
    }


@pytest.fixture
def run(trained: dict[str, Path], tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained["good"], tmp_path / "run")))


def gated(**gate: Any) -> ExportConfig:
    return ExportConfig(verify=False, gate=gate)


@pytest.mark.slow
def test_a_run_that_passes_is_deployed(run: RunFolder, trained: dict[str, Path]) -> None:
    summary: dict[str, Any] = {}
    config, against = gated(max_drop=10.0), str(trained["good"] / "model")
    gated_export(run, config, against, summary.update)
    assert summary["gate"]["passed"] and summary["export"]["path"] == "deployment/model.onnx"
    assert json.loads(run.gate.read_text())["passed"]
    check_sums(run.deployment)
    assert "## Compared with the dense model" in (run.deployment / "README.md").read_text()
    closing = dict(rows({"status": "completed", **summary}))
    assert closing["accuracy against the dense model"].startswith("+0.00 (-4.06 to +4.06) points")
    # An export without the test leaves no result of the one before.
    gated_export(run, ExportConfig(verify=False), None, summary.update)
    assert not run.gate.exists() and run.graph.is_file()


def test_a_run_that_does_not_pass_has_no_deployment(
    run: RunFolder, trained: dict[str, Path]
) -> None:
    config = gated(max_drop=10.0, against=str(trained["opposite"]))
    summary: dict[str, Any] = {}
    gated_export(run, config, None, summary.update)  # better than the baseline
    worse = RunFolder(run.path.with_name("worse"))
    shutil.copytree(trained["opposite"], worse.path)
    # Both answer the rows of the first run, on which the second is wrong.
    shutil.copy(run.evaluation("validation"), worse.evaluations)
    summary = {}
    with pytest.raises(UserError, match="gate stopped the deployment: FAILED: accuracy drops by"):
        gated_export(worse, gated(max_drop=10.0, against=str(run)), None, summary.update)
    assert not worse.deployment.exists() and worse.weights.is_file()
    assert not json.loads(worse.gate.read_text())["passed"]
    assert not summary["gate"]["passed"] and "export" not in summary


def test_the_config_says_what_is_tested_and_how_surely(
    run: RunFolder, trained: dict[str, Path]
) -> None:
    asked = {"alpha": 0.2, "metrics": ["log_loss", "accuracy"]}
    summary: dict[str, Any] = {}
    gated_export(
        run, gated(max_drop=10.0, **asked), str(trained["opposite"] / "model"), summary.update
    )
    found = json.loads(run.gate.read_text())
    assert found["alpha"] == 0.2
    assert [test["metric"] for test in found["metrics"]] == asked["metrics"]
    assert list(summary["gate"]["metrics"]) == asked["metrics"]


def test_an_export_that_does_not_pass_changes_the_status(
    run: RunFolder, trained: dict[str, Path]
) -> None:
    """64 rows cannot show a hundredth of a point."""
    gate = {"max_drop": 0.01, "against": str(trained["good"] / "model")}
    settings = {
        **run.config,
        "export": {
            "_target_": "sparsekit.onnx.export.ExportConfig",
            "verify": False,
            "gate": gate,
        },
    }
    run.config_file.write_text(yaml.safe_dump(settings))
    known = {"config": {"hash": identity_hash(settings)}, "metrics": {"validation": {}}}
    run.write_summary({"status": "completed", "error": None, "export": {}, **known})
    result = CliRunner().invoke(app, ["export", str(run)])
    assert result.exit_code == 1
    assert isinstance(result.exception, UserError) or "gate stopped" in result.output
    assert run.summary["status"] == "failed" and "export" not in run.summary
    assert "64 rows are too few" in run.summary["error"]
    assert run.summary["gate"]["against"] == gate["against"]


def test_the_gate_is_checked_before_training(run: RunFolder) -> None:
    assert gate_problems(ExportConfig(), NoTeacher()) == []
    assert gate_problems(None, NoTeacher()) == []
    one, several = Checkpoint(checkpoint="a"), Checkpoint(checkpoint=["a", "b"])
    assert gate_problems(gated(max_drop=1.0), one) == []
    assert gate_problems(gated(max_drop=1.0), Self()) == []
    for teacher in (NoTeacher(), several):
        [problem] = gate_problems(gated(max_drop=1.0), teacher)
        assert "set export.gate.against=RUN_OR_MODEL" in problem
    assert gate_problems(gated(max_drop=1.0, against=str(run)), NoTeacher()) == []
    [problem] = gate_problems(gated(max_drop=1.0, against="nowhere"), NoTeacher())
    assert problem.startswith("export.gate.against: nowhere has no model to compare with")
    with pytest.raises(ConfigError, match=r"export\.gate\.max_dorp is not a field"):
        gate_problems(gated(max_dorp=1.0), one)
    with pytest.raises(ConfigError, match=r"export\.gate\.max_drop is 'x'; it must be a number"):
        gate_problems(gated(max_drop="x"), one)
    with pytest.raises(UserError, match="max_drop is -1"):
        gate_problems(gated(max_drop=-1.0), one)


def test_a_metric_that_cannot_be_tested_is_refused_before_training() -> None:
    vectors, classes = Embedding(), TextClassification(metrics=["accuracy"])
    [problem] = gate_problems(gated(max_drop=1.0), Self(), vectors)
    assert problem.startswith("export.gate: neighbours compares each row with all others")
    assert gate_problems(ExportConfig(), Self(), vectors) == []
    assert gate_problems(gated(max_drop=1.0), Self(), classes) == []
    [problem] = gate_problems(gated(max_drop=1.0, metrics=["acuracy"]), Self(), classes)
    assert problem.startswith("export.gate: ") and "acuracy" in problem


def validation(task: Task, rows: int) -> Data:
    return Data(task, {"validation": Dataset.from_dict({"text": ["a"] * rows})}, [])


def test_a_run_says_before_training_what_its_rows_can_show(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of Rotten Tomatoes: an equally good model that changes 124 of 1,066 rows does not pass."""
    caplog.set_level("INFO")
    classes = TextClassification(metrics=["accuracy"])
    report_prospects(ExportConfig(), validation(classes, 10))
    report_prospects(gated(max_drop=1.0), Data(classes, {}, []))
    assert not caplog.records
    report_prospects(gated(max_drop=1.0), validation(classes, 1066))
    [warning] = caplog.records
    assert warning.levelname == "WARNING"
    text = warning.getMessage()
    assert text.startswith("export.gate.max_drop=1 is less than the gate may be able to show")
    assert "1,066 validation rows show a drop of 1.8, 2.4 or 3.0 points where 5, 10 or 15 %" in text
    assert "(confidence 95%, with a chance of 80%" in text
    assert compare_accuracies(62, 62, 1066, 0.01, 0.05).lower < -0.01
    caplog.clear()
    report_prospects(gated(max_drop=3.1), validation(classes, 1066))
    [note] = caplog.records
    assert note.levelname == "INFO"
    assert compare_accuracies(62, 62, 1066, 0.031, 0.05).lower > -0.031


def test_too_few_rows_for_any_model_are_refused_before_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of the accuracy of classes each number of rows may be enough."""
    numbers = Regression(metrics=["mse"])
    with pytest.raises(UserError, match="49 validation rows are too few to bootstrap mse"):
        report_prospects(gated(max_drop=1.0), validation(numbers, 49))
    report_prospects(gated(max_drop=1.0), validation(numbers, 50))
    assert not caplog.records
    classes = TextClassification(metrics=["accuracy"])
    report_prospects(gated(max_drop=1.0), validation(classes, 49))


def test_a_baseline_that_the_gate_cannot_read_is_refused_before_training(tmp_path: Path) -> None:
    """transformers trains and teaches from a pickled file too."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    student = Student(checkpoint=str(tmp_path))
    for teachers in (list, lambda: [tmp_path]):
        with pytest.raises(UserError, match=r"^export\.gate: .* has no model to compare with"):
            record_baseline(gated(max_drop=1.0), teachers, student, lambda _: None)


def test_the_baseline_is_recorded_before_training(run: RunFolder, trained: dict[str, Path]) -> None:
    summary: dict[str, Any] = {}
    student_folder, taught = str(run.model), trained["opposite"] / "model"
    student = Student(checkpoint=student_folder)
    unused: Any = lambda: pytest.fail("no baseline is needed")  # noqa: E731
    record_baseline(ExportConfig(), unused, student, summary.update)
    assert summary == {}
    record_baseline(gated(max_drop=1.0), lambda: [taught], student, summary.update)
    assert summary == {"gate": {"against": str(taught)}}
    record_baseline(gated(max_drop=1.0), list, student, summary.update)  # teacher=self
    assert summary == {"gate": {"against": student_folder}}
    record_baseline(gated(max_drop=1.0, against="/dense"), unused, student, summary.update)
    assert summary == {"gate": {"against": "/dense"}}
