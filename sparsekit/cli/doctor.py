"""`sparsekit doctor`: what this machine can run."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what this machine can run; exit code 1 if a required package is missing."""
    from rich.table import Table
    from rich.text import Text

    from sparsekit.cli.diagnosis import check_required, diagnose
    from sparsekit.runs.report import show

    findings = list(diagnose())
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        view = Table(show_header=False)
        for finding in findings:
            fix = f"\n{finding.fix}" if finding.fix else ""
            view.add_row(finding.what, Text(f"{finding.value}{fix}", overflow="fold"))
        show(view)
    check_required(findings)
