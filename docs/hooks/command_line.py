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

A command ends with exit code 0, or with 1 and one message on stderr that says what is wrong and how
to fix it. `gate`, `rerun` and `compress` end with 1 for a negative result too. Options that cannot
be parsed end with 2, and a run that a signal stopped with 128 plus its number, such as 143 for
SIGTERM. `sparsekit COMMAND --help` prints what follows. `python -m sparsekit` is
the same as `sparsekit`.
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
    yield f"## `{name}` {{ #{name.replace(' ', '-')} }}\n"
    yield f"```sh\n{' '.join([name, *usage(command)])}\n```\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    rows = [row for row in map(option, command.params) if row]
    if rows:
        yield "| option | meaning | default |\n|---|---|---|"
        yield from rows
        yield ""


def usage(command: typer.core.TyperCommand) -> Iterator[str]:
    """What follows the command's name: its options as one word, its arguments by name."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    if len(arguments) < len(command.params):
        yield "[OPTIONS]"
    for argument in arguments:
        # A metavar of ours says itself what repeats.
        repeated = "..." if argument.nargs < 0 and not argument.metavar else ""
        name = (argument.metavar or argument.name).upper() + repeated
        yield name if argument.required else f"[{name}]"
    if command.context_settings.get("allow_extra_args"):
        yield "[OVERRIDES...]"


def option(parameter: typer.core.TyperOption | typer.core.TyperArgument) -> str | None:
    """A row of the table: an option's or argument's names, help and default."""
    text = getattr(parameter, "help", None)
    if getattr(parameter, "hidden", False) or not text:
        return None
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [(parameter.metavar or parameter.name).upper()]
    shown = ", ".join(f"`{value}`" for value in defaults(parameter))
    return f"| {' '.join(f'`{name}`' for name in names)} | {escaped(text)} | {shown} |"


def defaults(parameter: typer.core.TyperOption | typer.core.TyperArgument) -> list[object]:
    """The default values that are worth showing: none for flags and for what is not given."""
    default = parameter.default
    if default is None or isinstance(default, bool) or callable(default):
        return []
    return list(default) if isinstance(default, list | tuple) else [default]


def escaped(text: str) -> str:
    """`text` within a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
