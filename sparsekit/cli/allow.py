"""`--allow MODULE`: user code that a file may name, imported before the file is read."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from sparsekit.errors import UserError, first_line

Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE",
        help="A module of your own whose classes the file may name, such as "
        "my_package.my_modifiers; repeatable. It is imported, so its code runs.",
    ),
]


def import_allowed(modules: list[str] | None) -> None:
    """Import `modules`; after that, files may name classes in exactly these.

    Raises UserError for a module that cannot be imported.
    """
    for module in modules or []:
        try:
            importlib.import_module(module)
        except (ImportError, ValueError, TypeError) as error:
            raise UserError(
                f"--allow {module} cannot be imported: {first_line(error)}; write it as in an "
                "import statement, and set PYTHONPATH to the folder that holds it"
            ) from error
