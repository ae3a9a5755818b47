"""`sparsekit prune`: a sparse student from a dense checkpoint, at once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Method(StrEnum):
    """How the weights to drop are chosen."""

    magnitude = "magnitude"
    obs = "obs"
    wanda = "wanda"


def prune(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a Hub id.")],
    sparsity: Annotated[
        float | None, typer.Option(help="Share of zeros, as 0.8; 2:4 needs none.")
    ] = None,
    method: Annotated[
        Method, typer.Option(help="magnitude: by size; wanda: by size and input; obs: by the loss.")
    ] = Method.magnitude,
    pattern: Annotated[
        str, typer.Option(help="unstructured, block4, or N:M, which keeps N of M, as 2:4.")
    ] = "unstructured",
    data: Annotated[
        Path | None, typer.Option(help="csv or json: texts for wanda; texts and labels for obs.")
    ] = None,
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column of the text; twice for pairs.")
    ] = None,
    label_column: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    max_length: Annotated[
        int | None,
        typer.Option(help="Tokens at which texts are cut. [default: 128, or what the model takes]"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New folder; MODEL-METHOD-SPARSITY if none."),
    ] = None,
    global_sparsity: Annotated[
        bool | None,
        typer.Option("--global/--layer", help="Rank all layers together. [default: only obs]"),
    ] = None,
    rows: Annotated[int, typer.Option(help="wanda: texts to look at.")] = 256,
    num_grads: Annotated[int, typer.Option(help="obs: gradients of each measurement.")] = 1024,
    grad_batch_size: Annotated[int, typer.Option(help="obs: texts of one gradient.")] = 1,
    damp: Annotated[float, typer.Option(help="obs: added to the Fisher's diagonal.")] = 1e-7,
    fisher_block_size: Annotated[
        int | None, typer.Option(help="obs: weights of one block. [default: 50, block4: 48]")
    ] = None,
    num_recomputations: Annotated[
        int | None, typer.Option(help="obs: measurements on the way. [default: 4, 2:4: 1]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which texts are drawn.")] = 0,
) -> None:
    """Make a sparse student of a dense checkpoint, without training."""
    from sparsekit.inspection import inspect, table
    from sparsekit.oneshot.methods import OneShot
    from sparsekit.oneshot.prune import Data, prune_checkpoint
    from sparsekit.progress import quiet_libraries
    from sparsekit.report import show
    from sparsekit.training.allocator import keep_freed_memory

    quiet_libraries()
    # Gradients row by row are large: much of the time went into mapping their memory anew.
    keep_freed_memory()
    block_size = 48 if pattern == "block4" else 50
    measurements = 1 if ":" in pattern else 4
    config = OneShot(
        sparsity=sparsity,
        method=method.value,
        pattern=pattern,
        global_sparsity=global_sparsity,
        num_grads=num_grads,
        damp=damp,
        fisher_block_size=block_size if fisher_block_size is None else fisher_block_size,
        num_recomputations=measurements if num_recomputations is None else num_recomputations,
        grad_batch_size=grad_batch_size,
        rows=rows,
        seed=seed,
    )
    calibration = None
    if data is not None:
        calibration = Data(
            file=data,
            text_columns=text_column or ["text"],
            label_column=label_column,
            max_length=max_length,
        )
    target = output or Path(f"{Path(model).resolve().name}-{method.value}-{sparsity or pattern}")
    prune_checkpoint(model, target, config, calibration)
    show(table(inspect(str(target))))
    typer.echo(f"pruned: {target}")
