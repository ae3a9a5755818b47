"""The notebook of examples/: it runs, and its stored outputs name no place on a machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from project import ROOT

NOTEBOOK = ROOT / "examples" / "sparse_transfer.ipynb"
# What the command jupyter-execute runs.
EXECUTE = "from nbclient.cli import main; main()"
# A path from the root of a file system, a user's folder, or an address.
PLACES = re.compile(r"(?<![\w.:/])/(?!/)\w[\w.-]*/|\b[A-Z]:\\\\|~/|https?://")


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def texts(cells: list[dict[str, Any]]) -> list[str]:
    """Everything that the outputs of the cells show."""
    shown = []
    for output in (output for cell in cells for output in cell["outputs"]):
        parts = [output.get("text", ""), *output.get("data", {}).values()]
        shown += ["".join(part) for part in parts]
    return shown


def test_the_stored_outputs_are_whole_and_name_no_place() -> None:
    cells = code_cells(NOTEBOOK)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(out["output_type"] != "error" for cell in cells for out in cell["outputs"])
    found = texts(cells)
    assert any("'verified': True" in text for text in found)
    assert any("Schedule" in text for text in found)
    for text in found:
        assert not PLACES.search(text), text


@pytest.mark.parametrize("text", ["/work/x.py", "saved to /tmp/a", "~/.cache", "http://127.0.0.1"])
def test_what_counts_as_a_place(text: str) -> None:
    assert PLACES.search(text)
    assert not PLACES.search("18/500 at 1.2 it/s, runs/student/model, <br/>")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    copied = Path(shutil.copy(NOTEBOOK, tmp_path))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JUPYTER_PLATFORM_DIRS": "1",
        "XDG_DATA_HOME": str(tmp_path / "jupyter"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, "--inplace", copied.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert any("'verified': True" in text for text in texts(code_cells(copied)))
    assert (tmp_path / "deployment" / "model.onnx").is_file()
    assert json.loads((tmp_path / "runs" / "student" / "summary.json").read_text())["export"]
