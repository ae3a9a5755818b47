"""`sparsekit verify`: whether a run is what its files claim."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsekit.cli.allow import Allow, import_allowed
from sparsekit.cli.imports import uncollected

if TYPE_CHECKING:
    from sparsekit.runs.folder import RunFolder


def verify(run: Annotated[Path, typer.Argument(help="A run folder.")], allow: Allow = None) -> None:
    """Check a finished run again from its files: sums, masks, sparsity, graph, logits, metrics."""
    from rich.table import Table
    from rich.text import Text

    from sparsekit.runs.folder import RunFolder
    from sparsekit.runs.report import show

    folder = RunFolder(run)
    summary = folder.summary
    import_allowed(allow)
    results = _verify(folder, summary)
    completed = summary.get("status") == "completed"
    view = Table(
        "check", "result", title="verified" if completed else "files verified, but the run failed"
    )
    for check, value in results.items():
        # As text: errors quote names in brackets, which Rich would read as markup.
        view.add_row(check, Text(value, overflow="fold"))
    show(view)


def _verify(run: RunFolder, summary: dict[str, Any]) -> dict[str, str]:
    """All checks; without torch those that need none, and a line for the others."""
    if find_spec("torch") is None:
        from sparsekit.pipeline.file_checks import verify_files

        missing = "not checked without torch: pip install 'sparsekit[train]'"
        return verify_files(run, summary) | {"masks, graph, metrics": missing}
    with uncollected():
        from sparsekit.pipeline.verification import verify_run
        from sparsekit.runs.progress import quiet_libraries

    quiet_libraries()
    return verify_run(run, summary)
