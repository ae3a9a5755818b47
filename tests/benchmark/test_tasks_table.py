"""The table of `benchmarks/tasks.py` tells settings apart, and compares each seed with its own."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest
from project import ROOT


def test_each_number_of_epochs_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scores = {
        "dense-3-epochs-seed-0": 0.85,
        "dense-3-epochs-seed-1": 0.95,
        "sparse-6-epochs-seed-0": 0.80,
        "sparse-20-epochs-seed-0": 0.84,
        "sparse-20-epochs-seed-1": 0.94,
    }
    for name, accuracy in scores.items():
        folder = tmp_path / "sick-entailment" / name
        folder.mkdir(parents=True)
        metrics = {"validation": {"accuracy": accuracy}}
        summary = {"status": "completed", "error": None, "metrics": metrics}
        (folder / "summary.json").write_text(json.dumps(summary))
    importlib.import_module("tasks").table(argparse.Namespace(output=tmp_path))
    start = "| sick-entailment | accuracy |"
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(start)]
    assert rows == [
        f"{start} 90.0 (85.0 - 95.0) | 89.0 (84.0 - 94.0) | 20 | - | 0, 1 |",
        f"{start} 85.0 | 80.0 | 6 | - | 0 |",
    ]
