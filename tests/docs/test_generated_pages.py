"""The pages that MkDocs generates from conf/, the command line and the metrics."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
import typer
from project import CONF, ROOT


def hook(name: str) -> ModuleType:
    """A hook of docs/hooks/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_choice_has_a_section() -> None:
    text = "\n".join(hook("configuration").page(ROOT))
    found = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)
    assert len(found) > 35
    for path in found:
        assert f"### `{path.parent.relative_to(CONF)}={path.stem}`" in text
    assert "### `experiments=quickstart`" in text
    assert "## dataset { #dataset }\n\nWhat to learn from" in text


def test_a_choice_is_its_comment_its_target_and_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "choice.yaml"
    file.write_text(
        "# @package _global_\n# python launch.py dataset=csv\n# Needs `a=1` and b.c=2, see below.\n"
        "_target_: package.module.Thing\nsize: 3  # rows\n"
    )
    lines = list(hook("configuration").choice(file))
    assert lines == [
        "```sh\npython launch.py dataset=csv\n```\n",
        "Needs `a=1` and `b.c=2`, see below.",
        "",
        'Builds <autoref identifier="package.module.Thing" optional>`Thing`</autoref>.\n',
        "```yaml\n_target_: package.module.Thing\nsize: 3  # rows\n```\n",
    ]


@pytest.fixture
def command() -> typer.core.TyperCommand:
    app = typer.Typer()

    @app.command()
    def measure(
        runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
        batch: Annotated[tuple[int, int], typer.Option(help="Rows | batch.")] = (1, 32),
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Measure runs."""

    return typer.main.get_command(app)


def test_what_a_metavar_repeats_is_not_repeated_again() -> None:
    app = typer.Typer()

    @app.command()
    def find(
        words: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Overrides.")],
    ) -> None: ...

    *_, words = hook("command_line").usage(typer.main.get_command(app))
    assert words == "KEY=VALUE..."


def test_a_command_is_its_usage_its_help_and_its_options(
    command: typer.core.TyperCommand,
) -> None:
    text = "\n".join(hook("command_line").commands(command, "tool measure"))
    assert "## `tool measure` { #tool-measure }" in text
    assert "tool measure [OPTIONS] RUNS...\n" in text
    assert "Measure runs." in text
    assert "| `RUNS` | Run folders. |  |" in text
    assert "| `--batch` | Rows \\| batch. | `1`, `32` |" in text
    assert "| `--json` | Print JSON. |  |" in text
    assert "--help" not in text


def test_a_metric_names_its_function_and_which_way_is_better() -> None:
    rows = list(hook("metrics").rows())
    assert "| `accuracy` | `accuracy_score` | higher |  |" in rows
    function = "`f1_score` with `zero_division=0.0, average='macro'`"
    assert f"| `f1_macro` | {function} | higher | `macro_f1` |" in rows
    assert "| `expected_calibration_error` | sparsekit's own | lower | `ece` |" in rows


def test_lines_that_begin_with_a_name_become_a_list() -> None:
    text = "Two:\nsize: in rows,\n    padding too;\n`name`: any.\n\nNote: end.\nother: no field."
    assert hook("fields").listed(text, {"size", "name"}) == (
        "Two:\n\n- `size`: in rows,\n    padding too;\n- `name`: any.\n\nNote: end.\n"
        "other: no field."
    )
