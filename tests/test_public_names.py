"""`import sparsekit`: its public names are there, and nothing heavy is imported before its use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sparsekit

HEAVY = "{'torch', 'transformers', 'datasets', 'hydra', 'onnxruntime'}"


@pytest.mark.parametrize("name", sparsekit.__all__)
def test_every_name_is_there(name: str) -> None:
    value = getattr(sparsekit, name)
    assert name in dir(sparsekit)
    if name != "__version__":
        assert callable(value)
        assert value.__name__ == name
        assert value.__doc__


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        _ = sparsekit.Trainer


@pytest.mark.parametrize(
    ("statement", "heavy"), [("", HEAVY), ("sparsekit.Pipeline", f"{HEAVY} - {{'onnxruntime'}}")]
)
def test_nothing_heavy_is_imported_before_its_use(statement: str, heavy: str) -> None:
    program = (
        f"import sys, sparsekit\n{statement}\n"
        f"found = ({heavy}) & sys.modules.keys()\n"
        "sys.exit(f'imported {found}' if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
