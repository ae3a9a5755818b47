"""The environment of the old tools: a wrong `SPARSEKIT_PEER_PYTHON` is a problem of the config."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from project import ROOT

from sparsekit.config.plain import plain
from sparsekit.errors import ConfigError
from sparsekit.pipeline.plan import Plan
from sparsekit.sparseml import peer
from sparsekit.sparseml.peer import peer_problem, peer_python

CHOICES = {
    "deepsparse": ["runtime=deepsparse", "export=deepsparse"],
    "sparseml": ["engine=sparseml"],
}


def script(path: Path, text: str, mode: int = 0o755) -> None:
    path.write_text(text)
    path.chmod(mode)


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: None, "which does not exist"),
    "a folder": (lambda path: path.mkdir(), "which is not an executable file"),
    "a text": (lambda path: script(path, "text", 0o644), "which is not an executable file"),
    "no program": (lambda path: script(path, "text"), r"which cannot be run \(Exec format error\)"),
    "no Python": (lambda path: script(path, "#!/bin/sh\necho hello\n"), "which has no PACKAGE"),
    "broken": (
        lambda path: script(path, "#!/bin/sh\necho no libpython >&2; exit 127\n"),
        r"which cannot look for PACKAGE \(no libpython\)",
    ),
    "without it": (lambda path: path.symlink_to(sys.executable), "which has no PACKAGE"),
}


@pytest.mark.parametrize("package", CHOICES)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_python_is_a_problem_of_the_config(
    package: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, why = WRONG[wrong]
    make(tmp_path / "python")
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", str(tmp_path / "python"))
    overrides = [f"output_dir={tmp_path}", "dataset=rotten_tomatoes", "teacher=textattack"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        values = plain(compose("config", [*overrides, *CHOICES[package]]))
    expected = (
        rf"not installed: SPARSEKIT_PEER_PYTHON is '{tmp_path / 'python'}', "
        rf"{why.replace('PACKAGE', package)}; set it to the Python of an environment that has "
        rf"{package}, or unset it for that of make peer-env$"
    )
    with pytest.raises(ConfigError, match=expected):
        Plan.build(values)


def test_a_python_that_has_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", sys.executable)
    assert peer_problem("pytest") is None
    # Workers start in folders of their own.
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", os.path.relpath(sys.executable))
    python = peer_python()
    assert python is not None and python.is_absolute() and peer_problem("pytest") is None


def test_an_empty_name_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", "")
    monkeypatch.setattr(peer, "__file__", "/nowhere/sparsekit/peer.py")
    assert peer_python() is None
    assert peer_problem("deepsparse") == peer.MAKE
