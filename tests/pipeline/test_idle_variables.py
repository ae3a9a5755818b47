"""A run says which recipe variables of its command change nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from launching import local, run_here


def test_a_variable_of_a_disabled_modifier_is_warned_of(
    tmp_path: Path,
    csv_files: dict[str, str],
    teacher_folder: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = ["recipe=pruned90_quant", "recipe.qat_epochs=0", "recipe.observer_epoch=1"]
    run = [*local(csv_files, teacher_folder), "student.sparsity=0.5", "teacher=none", "export=none"]
    with caplog.at_level(logging.WARNING, logger="sparsekit.pipeline.run"):
        assert run_here(tmp_path / "run", *run, *words)["status"] == "completed"
    assert [record.getMessage() for record in caplog.records] == [
        "recipe.observer_epoch=1 has no effect: only quantization of recipe.modifiers reads it, "
        "which is disabled"
    ]
