"""A command whose extra is not installed names it; every extra that is named exists."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from project import GOLDEN, ROOT

from sparsekit.cli.extras import EXTRAS

# What `pip install sparsekit` leaves out.
LIGHT = """
import sys
from importlib.machinery import PathFinder

class Light(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = name.partition(".")[0] in {names}
        return None if missing else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Light
from sparsekit.cli.app import app

app(sys.argv[1:])
"""


def light(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`sparsekit WORDS...` where no package of an extra can be imported."""
    code = LIGHT.format(names=set(EXTRAS))
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_every_extra_is_in_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS.values()) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    "words",
    [
        ["predict", str(GOLDEN / "old_run"), "a film", "--runtime", "sparse"],
        ["inspect", str(GOLDEN / "old_run")],
        ["compare", str(GOLDEN / "old_run"), "--out", "."],
        ["verify", str(GOLDEN / "old_run")],
        ["init", "project"],
    ],
    ids=lambda words: words[0],
)
def test_what_uses_a_run_needs_no_extra(words: list[str], tmp_path: Path) -> None:
    done = light(tmp_path, *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["train", "dataset=csv"],
        ["train", "--help"],
        ["benchmark", str(GOLDEN / "old_run")],
        ["export", str(GOLDEN / "old_run")],
        ["prune", "folder"],
        ["recipe", "show", str(ROOT / "conf" / "recipe" / "dense.yaml")],
    ],
    ids=" ".join,
)
def test_a_command_without_its_extra_names_it(words: list[str], tmp_path: Path) -> None:
    done = light(tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: sparsekit {words[0]} needs "), done.stderr
    assert done.stderr.endswith(": pip install 'sparsekit[train]'\n")
    assert done.stderr.count("\n") == 1
