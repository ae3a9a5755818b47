"""Writes reference/command-line.md from the `sparsekit` command when MkDocs builds the site."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from sparsekit.cli.app import app

PAGE = "reference/command-line.md"
INTRODUCTION = """\
# Command line

Every command ends with exit code 0, or with exit code 1 and one message on stderr that says what
is wrong and how to fix it. `sparsekit COMMAND --help` prints what follows.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    files.append(File.generated(config, PAGE, content="\n".join(page())))
    return files


def page() -> Iterator[str]:
    """The page's lines: every command, and the commands of groups."""
    yield INTRODUCTION
    yield from commands(typer.main.get_command(app), "sparsekit")


def commands(command: typer.core.TyperCommand, name: str) -> Iterator[str]:
    """A command's section, or the sections of a group's commands."""
    nested = getattr(command, "commands", None)
    if nested is not None:
        for each in sorted(nested):
            yield from commands(nested[each], f"{name} {each}")
        return
    context = typer.Context(command, info_name=name)
    yield f"## `{name}` {{ #{name.replace(' ', '-')} }}\n"
    yield f"```sh\n{name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    rows = [row for row in map(option, command.params) if row]
    if rows:
        yield "| option | default | |\n|---|---|---|"
        yield from rows
        yield ""


def option(parameter: typer.core.TyperOption | typer.core.TyperArgument) -> str | None:
    """A row of the table: an option's or argument's names, default and help."""
    text = getattr(parameter, "help", None)
    if getattr(parameter, "hidden", False) or not text:
        return None
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [(parameter.metavar or parameter.name).upper()]
    default = parameter.default
    shown = "" if default is None or default is False or callable(default) else f"`{default}`"
    return f"| {' '.join(f'`{name}`' for name in names)} | {shown} | {escaped(text)} |"


def escaped(text: str) -> str:
    """`text` within a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
