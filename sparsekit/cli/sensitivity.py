"""`sparsekit sensitivity`: which layers can be pruned and quantized, and which cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sparsekit.oneshot.sensitivity import LayerSensitivity
    from sparsekit.oneshot.sensitivity_report import Sensitivity

SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)


def sensitivity(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a Hub id.")],
    data: Annotated[Path, typer.Option(help="A data file with texts and labels.")],
    sparsity: Annotated[
        float | None,
        typer.Option(help="Choose a share of zeros for each layer, so that all have this one."),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(help="A share of zeros to try, repeatable. [default: 0.5 0.7 0.8 0.9 0.95]"),
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(help="Column of the text; twice for pairs. [default: that of the task]"),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of the label. [default: that of the model's task]")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="Texts are truncated to this many tokens. [default: as in the task]"),
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows on which the loss is measured.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed for drawing rows.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write to. [default: MODEL-sensitivity]"),
    ] = None,
) -> None:
    """Measure how the loss grows with each layer alone pruned, and alone in int8.

    Writes `sensitivity.json` and `sensitivity.png`. With `--sparsity` it chooses a share of zeros
    for each layer, measures all layers pruned so and uniformly, and writes a recipe.
    """
    from sparsekit.oneshot.checkpoint import Data
    from sparsekit.oneshot.sensitivity_report import measure, table, write
    from sparsekit.runs.progress import quiet_libraries
    from sparsekit.runs.report import show

    quiet_libraries()
    file = Data(
        file=data,
        text_columns=text_column or None,
        label_column=label_column,
        max_length=max_length,
    )
    found = measure(
        model,
        file,
        shares=share or SHARES,
        sparsity=sparsity,
        rows=rows,
        seed=seed,
        shown=_with_progress,
    )
    target = output or Path(f"{Path(model).resolve().name}-sensitivity")
    write(found, target)
    show(table(found))
    for line in _closing(found, target):
        typer.echo(line)


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
    yield f"sensitivity: {target}"
