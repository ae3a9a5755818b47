"""`sparsekit shrink`: remove heads, neurons, hidden features and layers of a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from sparsekit.shape.shrink import Shrink
    from sparsekit.shape.target import Target


class Method(StrEnum):
    """The score by which structures are removed."""

    magnitude = "magnitude"
    first_order = "first_order"
    obs = "obs"


Heads = Annotated[float, typer.Option(help="Share of attention heads to remove, such as 0.25.")]
Neurons = Annotated[float, typer.Option(help="Share of feed-forward neurons to remove.")]
Layers = Annotated[float, typer.Option(help="Share of whole layers to remove.")]
Hidden = Annotated[float, typer.Option(help="Share of the hidden width to remove, in all layers.")]
How = Annotated[
    Method,
    typer.Option(
        help="Score: weight magnitude, first_order (gradient of the loss) or obs, which also "
        "updates the weights that stay."
    ),
]
Texts = Annotated[
    Path | None, typer.Option(help="A data file with labels, for first_order and obs.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="New folder. [default: MODEL-shrunk in the working directory]"
    ),
]
Ranked = Annotated[
    bool,
    typer.Option(
        "--global/--layer",
        help="Rank the structures of all layers together; layers then differ in size.",
    ),
]
MaxLatency = Annotated[
    list[str] | None,
    typer.Option(help="Find the heads and neurons for a latency, such as 3ms; repeatable."),
]
Table = Annotated[
    Path | None, typer.Option(help="A file that sparsekit latency-table wrote, for --max-latency.")
]
Sparsity = Annotated[
    float, typer.Option(help="Share of zeros that the weights will have, for --max-latency.")
]
AnyMachine = Annotated[
    bool, typer.Option("--any-machine", help="Use a latency table of another machine.")
]
Rows = Annotated[int, typer.Option(help="Number of texts to measure on.")]


def shrink(
    model: Model,
    heads: Heads = 0.0,
    neurons: Neurons = 0.0,
    layers: Layers = 0.0,
    hidden: Hidden = 0.0,
    max_latency: MaxLatency = None,
    latency_table: Table = None,
    sparsity: Sparsity = 0.0,
    any_machine: AnyMachine = False,
    method: How = Method.magnitude,
    data: Texts = None,
    text_column: TextColumns = None,
    label_column: LabelColumn = None,
    max_length: MaxLength = None,
    output: Output = None,
    global_ranking: Ranked = False,
    rows: Rows = 512,
    seed: Seed = 0,
    allow: Allow = None,
) -> None:
    """Remove structures of a checkpoint: its matrices become smaller, for every runtime."""
    with uncollected():
        from sparsekit.oneshot.shrink import shrink_checkpoint
        from sparsekit.runs.progress import quiet_libraries
        from sparsekit.shape.shrink import Shrink

    config = Shrink(
        heads=heads,
        neurons=neurons,
        hidden=hidden,
        layers=layers,
        method=method.value,
        global_ranking=global_ranking,
        rows=rows,
        seed=seed,
    )
    folder = output or Path(f"{Path(model).resolve().name}-shrunk")
    targets = _targets(max_latency or [], latency_table, sparsity, any_machine)
    outputs = {folder: config} if not targets else _of_targets(folder, config, targets)
    import_allowed(allow)
    calibration = None
    if data is not None:
        calibration = calibration_data(data, text_column, label_column, max_length)
    quiet_libraries()
    found = shrink_checkpoint(model, outputs, calibration)
    for each, changed in zip(outputs, found, strict=True):
        for name in ("layers", "heads", "neurons", "hidden", "parameters"):
            before, after = (_shown(changed[when], name) for when in ("before", "after"))
            typer.echo(f"{name:<11}{before} -> {after}")
        typer.echo(f"shrunk: {each}")


def _of_targets(folder: Path, config: Shrink, targets: list[Target]) -> dict[Path, Shrink]:
    """The settings for each target by its output: `folder`, or several folders beside it."""
    if len(targets) == 1:
        return {folder: replace(config, target=targets[0])}
    return {Path(f"{folder}-{each.max_latency}"): replace(config, target=each) for each in targets}


def _targets(
    max_latency: list[str], table: Path | None, sparsity: float, any_machine: bool
) -> list[Target]:
    """What each latency asks for; raises UserError where no table tells the latency of sizes."""
    from sparsekit.errors import UserError
    from sparsekit.shape.target import Target

    if max_latency and table is None:
        raise UserError(
            "--max-latency needs --latency-table FILE, which sparsekit latency-table writes"
        )
    return [
        Target(max_latency=longest, table=table, sparsity=sparsity, any_machine=any_machine)
        for longest in max_latency
    ]


def _shown(sizes: dict[str, Any], name: str) -> str:
    """A size as text: of each layer where they differ.

    >>> _shown({"heads": [4, 4]}, "heads"), _shown({"heads": [4, 0]}, "heads")
    ('4', '4 0')
    """
    if name == "layers":
        return str(len(sizes["heads"]))
    value = sizes[name]
    if not isinstance(value, list):
        return f"{value:,}"
    return str(value[0]) if len(set(value)) == 1 else " ".join(map(str, value))
