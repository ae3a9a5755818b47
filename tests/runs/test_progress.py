"""What a training run shows while it runs."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import TrainerState

from sparsekit.runs.progress import EpochBar, EpochLines, progress


def test_no_bar_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    assert isinstance(progress(), EpochBar)
    assert isinstance(progress(bar=False), EpochLines)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False))
    assert isinstance(progress(), EpochLines)


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    state, none = TrainerState(epoch=1.0), cast(Any, None)
    lines = EpochLines()
    lines.on_log(none, state, none, {"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_runtime": 3.0})
    lines.on_log(none, state, none, {"train_runtime": 9.0})
    written = capsys.readouterr()
    assert written.err == "epoch  1.00  validation loss 0.5  validation accuracy 0.75\n"
    assert written.out == ""
