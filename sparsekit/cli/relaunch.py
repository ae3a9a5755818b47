"""A run launched again with the overrides, and from the working directory, that it records."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sparsekit.errors import UserError
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.launch_record import launched_from
from sparsekit.runs.report import commands_typed_in


def relaunch(run: RunFolder, changes: Sequence[str]) -> None:
    """Launch `run` again with `changes` in place of its own overrides of the same keys.

    Raises UserError where the folder does not say how the run was launched, or the directory that
    it was launched in cannot be entered.
    """
    from sparsekit.cli.launch import launch

    launched = launched_from(run)
    replaced = {_key(change) for change in changes}
    words = [word for word in launched.overrides if _key(word) not in replaced]
    for configs in launched.config_dirs:
        words += ["--config-dir", str(configs)]
    commands_typed_in(Path.cwd())
    try:
        # Overrides may name files relative to where the run was started.
        os.chdir(launched.directory)
    except OSError as error:
        raise UserError(
            f"{run} was started in {launched.directory}, which cannot be entered "
            f"({error.strerror}); make that folder again: relative paths of the run begin there"
        ) from error
    launch([*words, *changes])


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]
