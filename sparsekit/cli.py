"""The `sparsekit` command. Each verb imports what it needs, so that `--help` starts at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sparsekit.config import UserError

if TYPE_CHECKING:
    from rich.console import Console

Run = Annotated[Path, typer.Argument(help="A run folder, as `run: <folder>` names it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Verbs(TyperGroup):
    """Ends in exit code 1 and one message on stderr for a mistake that the user can mend."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Prune, distil, quantize, export, prove, deploy. Train with launch.py; use runs here.",
)
recipes = typer.Typer(no_args_is_help=True, help="Look at recipes.")
app.add_typer(recipes, name="recipe")


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a Hub id.")],
    as_json: Json = False,
) -> None:
    """Show each layer's sparsity, N:M pattern and quantization."""
    from sparsekit.inspection import inspect, table

    inspection = inspect(model)
    if as_json:
        typer.echo(json.dumps(inspection.as_dict(), indent=2))
    else:
        _console().print(table(inspection))


@recipes.command("show")
def show_recipe(
    file: Annotated[Path, typer.Argument(help="A recipe: conf/recipe/*.yaml or a run's.")],
    steps_per_epoch: Annotated[int, typer.Option(min=1, help="Optimizer steps per epoch.")] = 100,
    as_json: Json = False,
) -> None:
    """Print when each modifier of a recipe acts; as JSON, its values at every step."""
    from sparsekit.recipe import Recipe
    from sparsekit.schedule import steps, table

    recipe = Recipe.load(file)
    if as_json:
        typer.echo(json.dumps(steps(recipe, steps_per_epoch), indent=2))
    else:
        _console().print(table(recipe, round(recipe.num_epochs * steps_per_epoch)))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what this machine can run; exit code 1 if a needed package is missing."""
    from rich.table import Table
    from rich.text import Text

    from sparsekit.doctor import diagnose, missing

    findings = list(diagnose())
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        view = Table(show_header=False)
        for finding in findings:
            fix = f"\n{finding.fix}" if finding.fix else ""
            view.add_row(finding.what, Text(f"{finding.value}{fix}", overflow="fold"))
        _console().print(view)
    missing(findings)


def _console() -> Console:
    from rich.console import Console

    return Console()
