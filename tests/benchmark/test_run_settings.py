"""Scripts of `benchmarks/` never take a run of other settings for the one that is asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from project import ROOT


@pytest.fixture(scope="module")
def run_settings() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "run_settings", ROOT / "benchmarks" / "run_settings.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded(folder: Path, *words: str) -> Path:
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(words)))
    return folder


def test_the_same_settings_in_any_order(run_settings: ModuleType, tmp_path: Path) -> None:
    folder = recorded(tmp_path, "seed=1", "recipe=dense", "training.resume_from_checkpoint=auto")
    run_settings.check_settings(folder, ["recipe=dense", "seed=1", "hydra.run.dir=elsewhere"])


def test_a_folder_without_a_run(run_settings: ModuleType, tmp_path: Path) -> None:
    run_settings.check_settings(tmp_path, ["recipe=dense"])


def test_other_settings_are_refused(run_settings: ModuleType, tmp_path: Path) -> None:
    folder = recorded(tmp_path, "seed=1", "recipe.num_epochs=6")
    message = r"other settings \(recipe.num_epochs=6 instead of recipe.num_epochs=20\): give ano"
    with pytest.raises(SystemExit, match=message):
        run_settings.check_settings(folder, ["seed=1", "recipe.num_epochs=20"])
    with pytest.raises(SystemExit, match=r"\(none instead of recipe.obs_gradients=512\)"):
        run_settings.check_settings(
            folder, ["seed=1", "recipe.num_epochs=6", "recipe.obs_gradients=512"]
        )
