"""`sparsekit verify`: whether a run is what its files claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Check a finished run again from its files: sums, masks, sparsity, graph, logits, metrics."""
    from rich.table import Table
    from rich.text import Text

    from sparsekit.pipeline.verification import verify_run
    from sparsekit.runs.folder import RunFolder
    from sparsekit.runs.progress import quiet_libraries
    from sparsekit.runs.report import show

    quiet_libraries()
    folder = RunFolder(run)
    summary = folder.summary
    results = verify_run(folder, summary)
    completed = summary.get("status") == "completed"
    view = Table(
        "check", "result", title="verified" if completed else "files verified, but the run failed"
    )
    for check, value in results.items():
        # As text: errors quote names in brackets, which Rich would read as markup.
        view.add_row(check, Text(value, overflow="fold"))
    show(view)
