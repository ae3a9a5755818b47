"""A machine without a C compiler: one warning that says what goes without it, and the fix."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_training import Rows, load_student, recipe, trainer
from torch import nn

from sparsekit.kernels import dropout
from sparsekit.kernels.errors import KernelError, NoCompilerError, warn
from sparsekit.kernels.library import library


@pytest.fixture
def warnings_of_a_run(
    tmp_path: Path,
    student_folder: str,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    no_compiler: None,
) -> Callable[[str], list[str]]:
    """What a training run with the compiler of that name warns of, where every kernel is wanted."""

    def warnings(compiler: str) -> list[str]:
        monkeypatch.setenv("CC", compiler)
        monkeypatch.setattr("sparsekit.training.arguments.pays_here", lambda: True)
        loaded = load_student(student_folder)
        for module in loaded.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
        with caplog.at_level(logging.WARNING, logger="sparsekit"):
            trainer(tmp_path, loaded, rows, recipe(), max_steps=4).train()
        return [r.getMessage() for r in caplog.records if r.name.startswith("sparsekit")]

    return warnings


@pytest.mark.parametrize(
    ("compiler", "what"),
    [
        ("/nonexistent", "'/nonexistent'"),
        ("false", "'false' (asked for its version it ended with code 1)"),
        ("/", "'/' (Permission denied)"),
    ],
)
def test_a_training_run_says_it_once(
    compiler: str,
    what: str,
    warnings_of_a_run: Callable[[str], list[str]],
) -> None:
    assert warnings_of_a_run(compiler) == [
        f"there is no C compiler {what}; install gcc, or set CC; until then training on the CPU is "
        "slower: dropout, attention, the optimizer and quantization take torch's operations, and "
        "zeros are multiplied too"
    ]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, as cc")
@pytest.mark.parametrize("flags", ["-no-such-flag", "-nostdinc"])
def test_a_compiler_that_compiles_nothing_is_as_none(
    flags: str,
    warnings_of_a_run: Callable[[str], list[str]],
) -> None:
    """It says its version, and each of four kernels would be warned of."""
    compiler = f"cc {flags}"
    (said,) = warnings_of_a_run(compiler)
    assert said.startswith(f"the C compiler '{compiler}' compiles nothing here: ")
    assert "; correct CC, or install gcc; until then training on the CPU is slower: dro" in said


def test_an_empty_name_is_the_systems_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_compiler: Any
) -> None:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoCompilerError, match="there is no C compiler 'cc'; install gcc"):
        library(dropout.KERNEL)


def test_what_one_file_costs_is_said_of_that_file(caplog: pytest.LogCaptureFixture) -> None:
    for lost in ("dropout takes torch's operations", "quantization takes torch's operations"):
        warn(KernelError("cc cannot compile here: no room"), lost)
        assert f"{lost}: cc cannot compile here: no room" in caplog.text
