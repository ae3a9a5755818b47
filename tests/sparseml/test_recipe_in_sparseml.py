"""SparseML reads what `sparsekit recipe convert --to sparseml` writes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from project import CONF
from sparseml_text import of_text
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.recipe.recipe import Recipe
from sparsekit.sparseml.peer import peer_python
from sparsekit.sparseml.recipes.mapping import EPOCH_RANGE, MODIFIERS, WINDOW

pytestmark = pytest.mark.skipif(peer_python() is None, reason="no peer environment: make peer-env")
# SparseML removes no structures, and its QuantizationModifier has one scale for each weight.
WITHOUT = ("sparseml", "shaped", "from_dense")
SHIPPED = sorted(path for path in (CONF / "recipe").glob("*.yaml") if path.stem not in WITHOUT)
EPOCHS = 24  # of each recipe, to see that its variables reach SparseML's modifiers
READ = """
import json, sys
from sparseml.pytorch.optim import ScheduledModifierManager

def value(modifier, name):
    value = getattr(modifier, name)
    return value if value is None or isinstance(value, (bool, float, int, str)) else str(value)

read = {}
for path in sys.argv[2:]:
    manager = ScheduledModifierManager.from_yaml(
        path, recipe_variables={"num_epochs": int(sys.argv[1])}
    )
    read[path] = {
        "max_epochs": manager.max_epochs,
        "modifiers": {
            type(modifier).__name__: {
                name: value(modifier, name) for name in modifier.props(only_serializable=False)
            }
            for modifier in manager.iter_modifiers()
        },
    }
print(json.dumps(read))
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("converted")
    files = {}
    for path in SHIPPED:
        files[path.stem] = folder / path.name
        command = ["recipe", "convert", str(path), "--to", "sparseml", "-o", str(files[path.stem])]
        assert CliRunner().invoke(app, command).exit_code == 0
    return files


@pytest.fixture(scope="module")
def read(converted: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The properties of the modifiers that SparseML reads from each file, by class."""
    done = subprocess.run(
        [str(peer_python()), "-I", "-c", READ, str(EPOCHS), *map(str, converted.values())],
        cwd=tmp_path_factory.mktemp("peer"),
        env=os.environ | {"NM_DISABLE_ANALYTICS": "True"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    modifiers = json.loads(done.stdout.splitlines()[-1])
    return {name: modifiers[str(path)] for name, path in converted.items()}


def test_there_are_recipes() -> None:
    assert len(SHIPPED) == 4


@pytest.mark.parametrize("name", [path.stem for path in SHIPPED])
def test_sparseml_reads_every_modifier(
    name: str, converted: dict[str, Path], read: dict[str, Any]
) -> None:
    text = converted[name].read_text()
    text = "\n".join(
        f"num_epochs: {EPOCHS}" if line.startswith("num_epochs:") else line
        for line in text.splitlines()
    )
    ours = Recipe.build(of_text(text))
    assert read[name]["max_epochs"] == ours.num_epochs == EPOCHS
    # Of two names for one modifier of ours the first is written.
    targets = {mapped.target: kind for kind, mapped in reversed(MODIFIERS.items())}
    kinds = [
        targets[f"{type(m).__module__}.{type(m).__qualname__}"] for m in ours.modifiers.values()
    ]
    theirs = dict(read[name]["modifiers"])
    assert theirs.pop(EPOCH_RANGE)["end_epoch"] == EPOCHS
    assert sorted(theirs) == sorted(kinds)
    for kind, modifier in zip(kinds, ours.modifiers.values(), strict=True):
        mapped = MODIFIERS[kind]
        compared = 0
        for field, own in {**WINDOW, **mapped.fields}.items():
            if field not in theirs[kind] or (field == "end_epoch" and mapped.endless):
                continue
            expected = getattr(modifier, own)
            if field == "end_epoch" and expected is None:
                expected = ours.num_epochs
            if isinstance(expected, bool | int | float | str):
                assert theirs[kind][field] == pytest.approx(expected), (kind, field)
                compared += 1
        assert compared, kind
