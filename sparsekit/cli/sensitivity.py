"""`sparsekit sensitivity`: which layers can be pruned and quantized, and which cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsekit.cli.allow import Allow, import_allowed
from sparsekit.cli.calibration import (
    LabelColumn,
    MaxLength,
    Model,
    Seed,
    TextColumns,
    calibration_data,
)
from sparsekit.cli.imports import uncollected
from sparsekit.cli.output import check_folder

if TYPE_CHECKING:
    from sparsekit.oneshot.sensitivity import LayerSensitivity
    from sparsekit.oneshot.sensitivity_report import Sensitivity

SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)


def sensitivity(
    model: Model,
    data: Annotated[Path, typer.Option(help="A data file with texts and labels.")],
    sparsity: Annotated[
        float | None,
        typer.Option(help="Choose a share of zeros for each layer that gives this share in all."),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(help="A share of zeros to try; repeatable. [default: 0.5 0.7 0.8 0.9 0.95]"),
    ] = None,
    text_column: TextColumns = None,
    label_column: LabelColumn = None,
    max_length: MaxLength = None,
    rows: Annotated[int, typer.Option(help="Rows on which the loss is measured.")] = 256,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write to. [default: MODEL-sensitivity in the working directory]",
        ),
    ] = None,
    allow: Allow = None,
) -> None:
    """Measure how the loss grows with each layer alone pruned, and alone in int8.

    Writes `sensitivity.json` and `sensitivity.png`. With `--sparsity` it chooses a share of zeros
    for each layer, measures all layers pruned so and uniformly, and writes a recipe.
    """
    with uncollected():
        from sparsekit.oneshot.sensitivity_report import measure, table, write
        from sparsekit.runs.progress import quiet_libraries
        from sparsekit.runs.report import show
    # Not where it is drawn: a missing matplotlib is reported before anything is measured.
    from sparsekit.oneshot.sensitivity_plot import plot

    target = output or Path(f"{Path(model).resolve().name}-sensitivity")
    check_folder(target)
    import_allowed(allow)
    quiet_libraries()
    found = measure(
        model,
        calibration_data(data, text_column, label_column, max_length),
        shares=share or SHARES,
        sparsity=sparsity,
        rows=rows,
        seed=seed,
        shown=_with_progress,
    )
    write(found, target)
    show(table(found))
    for line in _closing(found, target):
        typer.echo(line)
    plot(found.layers, found.allocation, target / "sensitivity.png")
    typer.echo(f"sensitivity: {target}")


def _with_progress(layers: Iterator[LayerSensitivity], count: int) -> Iterable[LayerSensitivity]:
    from rich.console import Console
    from rich.progress import track

    return track(layers, "layers", total=count, console=Console(stderr=True), transient=True)


def _closing(found: Sensitivity, target: Path) -> Iterator[str]:
    from sparsekit.oneshot.sensitivity_report import RECIPE

    if found.allocated is not None and found.uniform is not None:
        yield (
            f"all layers pruned, {found.sparsity:.1%} zeros: the loss grows by "
            f"{found.allocated:.4f} with the chosen shares, by {found.uniform:.4f} with one share "
            "for all"
        )
        if found.allocated >= found.uniform:
            yield "the chosen shares are no better here: prune all layers alike"
        else:
            yield f"train with it: sparsekit train --config-dir {target} recipe={RECIPE} ..."
