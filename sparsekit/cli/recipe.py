"""`sparsekit recipe`: show, plot and convert recipes, native or SparseML's."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsekit.cli.allow import Allow, import_allowed
from sparsekit.errors import ConfigError, UserError

if TYPE_CHECKING:
    from sparsekit.recipe.recipe import Recipe

recipes = typer.Typer(no_args_is_help=True, help="Show, plot and convert recipes.")
File = Annotated[
    Path, typer.Argument(help="conf/recipe/*.yaml, a run's recipe.yaml, or a SparseML recipe.")
]
StepsPerEpoch = Annotated[int, typer.Option(min=1, help="Optimizer steps per epoch.")]
Variables = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set a variable of the recipe."),
]


class Language(StrEnum):
    """What `convert` writes."""

    native = "native"
    sparseml = "sparseml"


@recipes.command("show")
def show_recipe(
    file: File,
    steps_per_epoch: StepsPerEpoch = 100,
    variables: Variables = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every step as JSON.")] = False,
    allow: Allow = None,
) -> None:
    """Print when each modifier acts and what the recipe sets at each epoch."""
    from sparsekit.recipe.schedule import epochs, step_count, steps, table
    from sparsekit.runs.report import show

    import_allowed(allow)
    recipe = _checked(file, variables)
    if as_json:
        typer.echo(json.dumps(steps(recipe, steps_per_epoch), indent=2))
        return
    show(table(recipe, step_count(recipe, steps_per_epoch)))
    show(epochs(recipe, steps_per_epoch))


@recipes.command("plot")
def plot(
    file: File,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The PNG to write. [default: FILE's name with .png, in the working directory]",
        ),
    ] = None,
    steps_per_epoch: StepsPerEpoch = 100,
    variables: Variables = None,
    allow: Allow = None,
) -> None:
    """Plot learning rate, sparsity and windows of a recipe over its epochs, as a PNG."""
    from sparsekit.recipe.plot import plot as draw

    import_allowed(allow)
    recipe = _checked(file, variables)
    target = output or Path(file.with_suffix(".png").name)
    if target.suffix.lower() != ".png":
        raise UserError(f"--output {target}: a plot is a PNG; write {target.with_suffix('.png')}")
    draw(recipe, steps_per_epoch, target, title=file.stem)
    typer.echo(str(target))


@recipes.command("convert")
def convert(
    file: File,
    to: Annotated[Language, typer.Option(help="The language to write.")] = Language.native,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write. [default: stdout]")
    ] = None,
    allow: Allow = None,
) -> None:
    """Convert a SparseML recipe into a native one, or with --to sparseml the reverse."""
    from sparsekit.recipe.source import recipe_file
    from sparsekit.sparseml.recipes.load import is_sparseml

    import_allowed(allow)
    file = recipe_file(file)
    source = Language.sparseml if is_sparseml(file) else Language.native
    if source == to:
        raise UserError(f"{file} is a {to} recipe already; use --to {_other(to)}")
    text = _native_text(file) if to == Language.native else _sparseml_text(file)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {output}: {error}") from error
    typer.echo(str(output))


def _other(language: Language) -> Language:
    return Language.sparseml if language == Language.native else Language.native


def _native_text(file: Path) -> str:
    import yaml

    from sparsekit.sparseml.recipes.document import read
    from sparsekit.sparseml.recipes.native import native

    node = native(read(file), str(file))
    header = (
        f"# Converted from {file.name} by sparsekit.\n"
        "# As conf/recipe/NAME.yaml it is chosen with recipe=NAME; from a folder of your own, as\n"
        "# FOLDER/recipe/NAME.yaml, with --config-dir FOLDER recipe=NAME.\n"
    )
    return header + yaml.safe_dump(node, sort_keys=False, width=100)


def _sparseml_text(file: Path) -> str:
    from omegaconf import OmegaConf

    from sparsekit.config.plain import plain
    from sparsekit.recipe.recipe import Recipe
    from sparsekit.recipe.source import native_config
    from sparsekit.sparseml.recipes.write import to_sparseml

    config = native_config(file)
    written = OmegaConf.to_container(config, resolve=False)
    assert isinstance(written, dict)
    resolved = plain(config)["recipe"]
    return to_sparseml(written["recipe"], resolved, Recipe.build(resolved).modifiers)


def _checked(file: Path, variables: list[str] | None) -> Recipe:
    """The recipe in a file of either language; raises ConfigError with every problem in it."""
    from sparsekit.recipe.recipe import Recipe
    from sparsekit.recipe.source import values_of_file

    recipe = Recipe.build(values_of_file(file, _values(variables or [])))
    if problems := recipe.problems():
        raise ConfigError(problems)
    return recipe


def _values(variables: list[str]) -> dict[str, Any]:
    from sparsekit.sparseml.recipes.text import values_of

    for text in variables:
        if not re.match(r"\w+=", text):
            raise UserError(f"--set {text!r}: write NAME=VALUE")
    pairs = [text.partition("=") for text in variables]
    return {name: values_of(value, f"--set {name}={value}") for name, _, value in pairs}
