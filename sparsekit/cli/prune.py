"""`sparsekit prune`: a sparse student from a dense checkpoint, without training."""

from __future__ import annotations

from enum import StrEnum
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

if TYPE_CHECKING:
    from sparsekit.oneshot.checkpoint import Data
    from sparsekit.oneshot.methods import OneShot


class Method(StrEnum):
    """The score by which weights are dropped."""

    magnitude = "magnitude"
    obs = "obs"
    wanda = "wanda"


Sparsity = Annotated[
    float | None, typer.Option(help="Share of zeros, such as 0.8; not used with N:M.")
]
How = Annotated[
    Method,
    typer.Option(help="Score: weight magnitude, wanda (magnitude x input norm) or obs (loss)."),
]
Pattern = Annotated[
    str, typer.Option(help="unstructured, block4, or N:M, which keeps N of M, such as 2:4.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="New folder. [default: MODEL-METHOD-SPARSITY in the working directory]",
    ),
]
Ranked = Annotated[
    bool | None,
    typer.Option(
        "--global/--layer", help="Rank the weights of all layers together. [default: obs only]"
    ),
]

# Calibration texts of wanda and obs.
Texts = Annotated[
    Path | None,
    typer.Option(
        help="A data file of the model's task: texts for wanda; texts and labels for obs."
    ),
]
Rows = Annotated[int, typer.Option(help="wanda: number of calibration texts.")]

# The Fisher information of obs, and how often it is estimated.
NumGrads = Annotated[int, typer.Option(help="obs: gradients per estimate.")]
GradBatchSize = Annotated[int, typer.Option(help="obs: texts per gradient.")]
Damp = Annotated[float, typer.Option(help="obs: added to the Fisher's diagonal.")]
BlockSize = Annotated[
    int | None, typer.Option(help="obs: weights per block. [default: 50, block4: 48]")
]
Recomputations = Annotated[
    int | None, typer.Option(help="obs: number of estimates. [default: 4, 2:4: 1]")
]


def prune(
    model: Model,
    sparsity: Sparsity = None,
    method: How = Method.magnitude,
    pattern: Pattern = "unstructured",
    data: Texts = None,
    text_column: TextColumns = None,
    label_column: LabelColumn = None,
    max_length: MaxLength = None,
    output: Output = None,
    global_sparsity: Ranked = None,
    rows: Rows = 256,
    num_grads: NumGrads = 1024,
    grad_batch_size: GradBatchSize = 1,
    damp: Damp = 1e-7,
    fisher_block_size: BlockSize = None,
    num_recomputations: Recomputations = None,
    seed: Seed = 0,
    allow: Allow = None,
) -> None:
    """Prune a dense checkpoint in one shot, without training."""
    from sparsekit.oneshot.methods import OneShot, defaults_of

    defaults = defaults_of(pattern)
    if fisher_block_size is not None:
        defaults["fisher_block_size"] = fisher_block_size
    if num_recomputations is not None:
        defaults["num_recomputations"] = num_recomputations
    config = OneShot(
        sparsity=sparsity,
        method=method.value,
        pattern=pattern,
        global_sparsity=global_sparsity,
        num_grads=num_grads,
        damp=damp,
        grad_batch_size=grad_batch_size,
        rows=rows,
        seed=seed,
        **defaults,
    )
    import_allowed(allow)
    calibration = None
    if data is not None:
        calibration = calibration_data(data, text_column, label_column, max_length)
    target = output or Path(f"{Path(model).resolve().name}-{method.value}-{sparsity or pattern}")
    _prune(model, target, config, calibration)


def _prune(model: str, target: Path, config: OneShot, calibration: Data | None) -> None:
    """Write the student and print its layers."""
    with uncollected():
        from sparsekit.models.inspection import inspect, table
        from sparsekit.oneshot.prune import prune_checkpoint
        from sparsekit.runs.progress import quiet_libraries
        from sparsekit.runs.report import show
        from sparsekit.training.cpu.allocator import reuse_freed_memory

    quiet_libraries()
    # Per-example gradients are large; mapping fresh memory for each took much of the time.
    with reuse_freed_memory():
        prune_checkpoint(model, target, config, calibration)
    show(table(inspect(str(target))))
    typer.echo(f"pruned: {target}")
