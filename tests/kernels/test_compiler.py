"""Without a C compiler there is one warning, which names the consequences and the fix."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compiler import needs_compiler
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
    """The warnings of a training run that needs every kernel, with a compiler of that name."""

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
        ("false", "'false' (`--version` ended with code 1)"),
        ("/", "'/' (Permission denied)"),
    ],
)
def test_a_training_run_warns_once(
    compiler: str,
    what: str,
    warnings_of_a_run: Callable[[str], list[str]],
) -> None:
    assert warnings_of_a_run(compiler) == [
        f"there is no C compiler {what}; install gcc, or set CC; until then training on the CPU is "
        "slower: dropout, attention, the optimizer and quantization use torch's operations, and "
        "sparse layers dense matmuls"
    ]


@needs_compiler
@pytest.mark.parametrize("flags", ["-no-such-flag", "-nostdinc"])
def test_a_compiler_that_always_fails_warns_once(
    flags: str,
    warnings_of_a_run: Callable[[str], list[str]],
) -> None:
    """Though it has a version, there is one warning for all four kernels."""
    compiler = f"cc {flags}"
    (warning,) = warnings_of_a_run(compiler)
    assert warning.startswith(f"the C compiler '{compiler}' compiles nothing here: ")
    assert "; correct CC, or install gcc; until then training on the CPU is slower: dro" in warning


def test_an_empty_cc_means_the_system_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_compiler: Any
) -> None:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoCompilerError, match="there is no C compiler 'cc'; install gcc"):
        library(dropout.KERNEL)


def test_a_kernel_that_fails_alone_has_its_own_warning(caplog: pytest.LogCaptureFixture) -> None:
    for loss in ("dropout uses torch's operations", "quantization uses torch's operations"):
        warn(KernelError("cc cannot compile here: no room"), loss)
        assert f"{loss}: cc cannot compile here: no room" in caplog.text
