"""The closing table: from summary.json only, with a row per stage that ran."""

import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from sparsekit.metrics.report import write_report
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.report import (
    closing_table,
    commands_typed_in,
    next_commands,
    rows,
    show,
    show_closing,
)

SUMMARY = {
    "status": "completed",
    "error": None,
    "metrics": {"validation": {"accuracy": 0.8321, "f1": 0.8}, "test": {"accuracy": 0.84}},
    "teacher": {"validation": {"accuracy": 0.85}},
    "sparsity": {"overall": 0.8, "layers": {}},
    "train": {"seconds": 65.4, "steps": 300, "samples_per_second": 100.0},
    "export": {
        "metrics": {"accuracy": 0.831},
        "int8_matmuls": 38,
        "fp32_matmuls": 0,
        "bytes": 23_400_000,
        "bytes_compressed": 5_100_000,
    },
    "runtime": {
        "onnxruntime": {"latency_ms_p50": 1.25, "latency_ms_p99": 1.9, "items_per_second": 1812.4}
    },
}


def text(renderable):
    console = Console(record=True, width=120)
    console.print(renderable)
    return console.export_text()


def test_rows():
    assert dict(rows(SUMMARY)) == {
        "accuracy, validation": "83.21%",
        "f1, validation": "80.00%",
        "accuracy, test": "84.00%",
        "teacher accuracy, validation": "85.00%",
        "sparsity": "80.00%",
        "exported accuracy, validation": "83.10%",
        "int8 matmuls": "38 of 38",
        "size": "23.4 MB, compressed 5.1 MB",
        "onnxruntime latency p50, p99": "1.25 ms, 1.90 ms",
        "onnxruntime throughput": "1,812 items/s",
        "training": "65 s, 300 steps",
    }


@pytest.fixture
def on_path(monkeypatch):
    """As in a shell whose PATH has the command."""
    monkeypatch.setattr("sparsekit.runs.report.command", lambda: "sparsekit")


def test_table_ends_in_commands_for_this_folder(tmp_path, monkeypatch, on_path):
    monkeypatch.chdir(tmp_path)
    shown = text(closing_table(SUMMARY, RunFolder(tmp_path / "outputs" / "run")))
    assert "run completed" in shown
    assert all(value in shown for _, value in rows(SUMMARY))
    assert "sparsekit predict outputs/run 'Write a text of your own here.'" in shown
    spaced = text(closing_table(SUMMARY, RunFolder(tmp_path / "my runs")))
    assert "sparsekit inspect 'my runs'/model" in spaced
    assert "sparsekit inspect outputs/run/model" in shown
    assert "sparsekit benchmark outputs/run" in shown


def test_stages_that_did_not_run_have_no_row():
    summary = {"status": "completed", "metrics": {"validation": {"accuracy": 0.5}}}
    assert dict(rows(summary)) == {"accuracy, validation": "50.00%"}
    assert next_commands(summary, "run", []) == []
    assert "Try next" not in text(closing_table(summary))


def test_failed_run_shows_its_error_as_it_is():
    summary = {"status": "failed", "error": "no column 'review' in [text, label]"}
    assert "no column 'review' in [text, label]" in text(closing_table(summary))


def test_import_is_torch_free():
    code = "import sys, sparsekit.runs.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_class_that_is_never_recognized_is_named_at_the_end(tmp_path):
    (tmp_path / "evaluation").mkdir()
    labels = np.arange(12) % 6
    names = [f"class {i}" for i in range(6)]
    for split, predicted in (("validation", np.zeros(12, int)), ("test", labels)):
        write_report(tmp_path / "evaluation", split, np.eye(6)[predicted], labels, names)
    shown = text(closing_table(SUMMARY, RunFolder(tmp_path)))
    assert "validation: class 'class 1' is never recognized: recall 0 of 2 rows" in shown
    assert "class 'class 4'" not in shown
    assert "What may help:" in shown
    assert "class 1: F1 0.00%, recall 0.00% of 2 rows" in shown
    assert "worst class, test" in shown
    assert "validation: recall is 0 of 2 more classes" in shown
    assert "test: class" not in shown
    assert "never recognized" not in text(closing_table(SUMMARY, None))


def test_a_table_in_a_pipe_is_as_wide_as_its_words(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    view = Table("modifier")
    view.add_row("LearningRateFunction " * 10)
    show(view)
    show(view, stderr=True)
    printed = capsys.readouterr()
    assert ("LearningRateFunction " * 10).strip() in printed.out
    assert printed.out == printed.err


def test_commands_are_not_broken_into_lines(tmp_path, monkeypatch, capsys, on_path):
    monkeypatch.setenv("COLUMNS", "40")
    run = RunFolder(tmp_path / ("long" * 20))
    show_closing(SUMMARY, run)
    lines = capsys.readouterr().out.splitlines()
    assert f"  sparsekit predict {run} 'Write a text of your own here.'" in lines


def test_commands_name_the_run_as_the_user_types_it(tmp_path, monkeypatch, on_path):
    """A run that is launched again works in the folder of its first launch."""
    monkeypatch.setattr("sparsekit.runs.report._typed_in", None)
    (tmp_path / "launch").mkdir()
    monkeypatch.chdir(tmp_path / "launch")
    run = RunFolder(tmp_path / "launch" / "run")
    assert "sparsekit inspect run/model" in text(closing_table(SUMMARY, run))
    commands_typed_in(tmp_path)
    assert "sparsekit inspect launch/run/model" in text(closing_table(SUMMARY, run))
