"""`sparsekit gate`: whether a run's exported model is as good as its dense baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsekit.cli.allow import Allow, import_allowed
from sparsekit.cli.imports import uncollected


def gate(
    run: Annotated[Path, typer.Argument(help="A run folder with a deployment.")],
    against: Annotated[
        Path,
        typer.Option(help="The dense baseline: a run, a deployment, or a model of transformers."),
    ],
    max_drop: Annotated[
        float,
        typer.Option(help="The largest allowed drop, in points; for a loss, in its own unit."),
    ],
    alpha: Annotated[
        float, typer.Option(help="The risk of passing a model that drops by --max-drop.")
    ] = 0.05,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric to test; repeatable. [default: the run's first metric]"),
    ] = None,
    slice_: Annotated[
        list[str] | None,
        typer.Option(
            "--slice", help="A column by whose values the difference is shown too; repeatable."
        ),
    ] = None,
    allow: Allow = None,
) -> None:
    """Test on the validation rows that a run's model is not worse than its dense baseline.

    Exit code 0: shown; 1: not shown. Writes gate.json and a section of the model card.
    """
    from sparsekit.errors import UserError, printable

    with uncollected():
        from sparsekit.gate.gate import GateConfig, compare_with
        from sparsekit.gate.text import notes, slices_table, summary_table, verdict
        from sparsekit.gate.write import write_gate
    from sparsekit.runs.folder import RunFolder
    from sparsekit.runs.progress import quiet_libraries
    from sparsekit.runs.report import show

    config = GateConfig(max_drop=max_drop, alpha=alpha, metrics=metric or (), slices=slice_ or ())
    import_allowed(allow)
    quiet_libraries()
    folder = RunFolder(run)
    if not folder.path.is_dir():
        raise UserError(f"there is no run folder {run}")
    with folder.lock():
        found = compare_with(folder, against, config)
        write_gate(folder, found)
    show(summary_table(found))
    show(slices_table(found))
    for line in notes(found):
        typer.echo(printable(line))
    for test in found["metrics"]:
        typer.echo(verdict(test, found["rows"], alpha))
    typer.echo(f"gate: {printable(str(folder.gate))} {printable(str(folder.gate_page))}")
    raise typer.Exit(0 if found["passed"] else 1)
