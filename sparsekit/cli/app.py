"""The `sparsekit` command: its verbs, and one message for what the user can fix.

Each verb imports what it needs when it runs, so that `--help` starts at once and a light
installation has every verb.
"""

from __future__ import annotations

import errno
import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import sparsekit
from sparsekit.cli.benchmark import benchmark
from sparsekit.cli.compare import compare
from sparsekit.cli.compress import compress
from sparsekit.cli.data import data
from sparsekit.cli.doctor import doctor
from sparsekit.cli.export import export
from sparsekit.cli.extras import install_hint
from sparsekit.cli.gate import gate
from sparsekit.cli.init import init
from sparsekit.cli.inspect import inspect
from sparsekit.cli.latency_table import latency_table
from sparsekit.cli.lr_find import lr_find
from sparsekit.cli.predict import predict
from sparsekit.cli.prune import prune
from sparsekit.cli.pull import pull
from sparsekit.cli.recipe import recipes
from sparsekit.cli.rerun import rerun
from sparsekit.cli.resume import resume
from sparsekit.cli.sensitivity import sensitivity
from sparsekit.cli.serve import serve
from sparsekit.cli.shrink import shrink
from sparsekit.cli.train import train
from sparsekit.cli.verify import verify
from sparsekit.cli.web import web
from sparsekit.cli.workspace import workspace
from sparsekit.errors import UserError, printable
from sparsekit.system import bound_spinning

_RIGHT = "give yourself the right, or copy the folder"
_SPACE = "free some space, and repeat the command"
# What to do where a file cannot be read or written.
FIXES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHT),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
}


class Verbs(TyperGroup):
    """Ends in exit code 1 and one message on stderr for a mistake that the user can fix."""

    def invoke(self, ctx: Any) -> Any:
        bound_spinning()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A label or a table's frame that the locale cannot write must not end the command.
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(error, str(error))
        except ModuleNotFoundError as error:
            hint = install_hint(error)
            if hint is None:
                raise
            _fail(error, f"sparsekit {ctx.invoked_subcommand} needs {hint}")
        except OSError as error:
            if error.errno not in FIXES:
                raise
            _fail(error, f"{error}; {FIXES[error.errno]}")


def _fail(error: Exception, message: str) -> None:
    typer.echo(f"error: {printable(message)}", err=True)
    raise typer.Exit(1) from error


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
# Hydra reads the arguments of `train`, --help among them.
app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(train)
app.command()(resume)
app.command()(rerun)
app.command()(data)
app.command()(init)
app.command()(predict)
app.command()(serve)
app.command()(web)
app.command()(inspect)
app.command()(export)
app.command()(verify)
app.command()(gate)
app.command()(benchmark)
app.command()(compare)
app.command()(compress)
app.command()(prune)
app.command()(shrink)
app.command()(latency_table)
app.command()(sensitivity)
app.command()(lr_find)
app.command()(pull)
app.command()(workspace)
app.command()(doctor)
app.add_typer(recipes, name="recipe")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(sparsekit.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Prune, distil, quantize, export, verify, deploy."""
