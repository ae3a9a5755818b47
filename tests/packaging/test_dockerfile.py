"""The steps of the Dockerfile, run without docker in an environment of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from project import GOLDEN, ROOT
from serving import get, post

LINES = (ROOT / "Dockerfile").read_text().splitlines()


def steps(name: str) -> list[str]:
    """What follows an instruction, wherever it stands."""
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def test_the_image_is_slim_and_not_of_root() -> None:
    assert all(image.endswith("-slim") for image in steps("FROM"))
    assert steps("USER") == ["10001"]
    assert not any(re.search(r"\b(apt-get|gcc|make)\b", step) for step in steps("RUN"))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_wheel_that_it_installs_is_the_only_one() -> None:
    """An older one in `dist` is removed before the new one is written."""
    printed = subprocess.run(
        ["make", "--dry-run", "wheel"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert 0 < printed.find("rm -f dist/sparsekit-*.whl") < printed.find("auditwheel repair")


@pytest.mark.slow
def test_the_steps_give_a_server(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    for name in ("sparsekit", "hydra_plugins", "conf", "experiments"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "sources" / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "sources")
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "--wheel-dir", str(tmp_path), str(tmp_path / "sources")], check=True)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    venv.create(tmp_path / "venv", with_pip=True)
    own = {"PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin", "HOME": os.environ["HOME"]}
    for step in steps("RUN"):
        done = subprocess.run(
            ["sh", "-ec", step], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
    [entry] = steps("ENTRYPOINT")
    program, *arguments = json.loads(entry)
    command = [str(tmp_path / "venv" / "bin" / program), *arguments, str(GOLDEN / "old_run")]
    server = subprocess.Popen(
        [*command, "--port", "0"], env=own, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        # A library may write its own lines before.
        shown = ""
        while not (match := re.search(r"http://\S+:(\d+)$", shown.rstrip())):
            line = server.stderr.readline()
            assert line, shown
            shown += line
        port = int(match[1])
        assert get(port, "/ready")[0] == 200
        assert post(port, "/predict", {"inputs": "fine"})[0] == 200
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert server.returncode == 0
