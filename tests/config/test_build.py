"""`_target_` names: what may be imported, and when."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.config.build import build
from sparsekit.errors import ConfigError
from sparsekit.modifiers.base import Modifier
from sparsekit.recipe.recipe import Recipe

MODULE = """
from dataclasses import dataclass
from pathlib import Path
from sparsekit.modifiers.base import Modifier

Path(__file__).with_name("imported").touch()


@dataclass(kw_only=True)
class Planted(Modifier):
    pass
"""
NODE = {"_target_": "planted_module.Planted", "start": 0.0, "end": 1.0}
RECIPE = {"num_epochs": 1, "modifiers": {"planted": NODE}}


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that exists once the planted module was imported."""
    (tmp_path / "planted_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "imported"
    for module in ("planted_module", "planted"):
        sys.modules.pop(module, None)


def test_a_foreign_module_is_not_imported(imported: Path) -> None:
    with pytest.raises(ConfigError, match=r"'planted_module.Planted' is not a class of sparsekit"):
        Recipe.build(RECIPE)
    assert not imported.exists()


def test_the_users_own_config_may_name_it(imported: Path) -> None:
    recipe = Recipe.build(RECIPE, trusted=True)
    assert type(recipe.modifiers["planted"]).__name__ == "Planted" and imported.exists()


def test_a_module_that_the_program_imported_may_be_named(imported: Path) -> None:
    importlib.import_module("planted_module")
    assert list(Recipe.build(RECIPE).modifiers) == ["planted"]


@pytest.mark.parametrize(("verb", "options"), [("show", []), ("plot", ["-o", "recipe.png"])])
def test_commands_on_a_recipe_of_others(
    imported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    options: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(RECIPE))
    refused = CliRunner().invoke(app, ["recipe", verb, str(file), *options])
    assert refused.exit_code == 1 and "is not a class of sparsekit" in refused.stderr
    assert "add --allow planted_module to the command" in refused.stderr
    assert not imported.exists()
    allowed = [str(file), *options, "--allow", "planted_module"]
    done = CliRunner().invoke(app, ["recipe", verb, *allowed])
    assert done.exit_code == 0, done.output
    assert imported.exists()


def test_allow_names_modules_exactly(imported: Path, tmp_path: Path) -> None:
    """Allowing a package or another module does not allow the module that the file names."""
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(RECIPE))
    for module in ("json", "planted"):
        (tmp_path / "planted.py").touch()
        refused = CliRunner().invoke(app, ["recipe", "show", str(file), "--allow", module])
        assert refused.exit_code == 1 and "is not a class of sparsekit" in refused.stderr
    assert not imported.exists()


@pytest.mark.parametrize("module", ["no_such_module", "", ".relative", "planted_module.Planted"])
def test_allow_that_cannot_be_imported(imported: Path, tmp_path: Path, module: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(RECIPE))
    refused = CliRunner().invoke(app, ["recipe", "show", str(file), "--allow", module])
    assert refused.exit_code == 1
    assert f"--allow {module} cannot be imported: " in refused.stderr


@pytest.mark.parametrize("target", [True, None, 3, ["os.mkdir"], {"a": 1}])
def test_targets_that_are_no_names(target: object) -> None:
    with pytest.raises(ConfigError, match=r"node._target_ is .*; it must name a class"):
        build({"_target_": target}, "node", Modifier)


def _refuses(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("foo"), r"^node: KeyError: 'foo'$"),
        (ZeroDivisionError(), r"^node: ZeroDivisionError$"),
        (ValueError("x is 2"), r"^node: x is 2$"),
    ],
)
def test_what_a_class_raises_by_mistake_is_named_by_its_type(
    error: Exception, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": f"{__name__}._refuses", "error": error}, "node", trusted=True)
