"""`sparsekit latency-table`: how long each size of a model's layers takes on this machine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsekit.cli.calibration import Model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from sparsekit.shape.latency import LatencyTable

Name = Annotated[str, typer.Option("--runtime", help="onnxruntime, openvino, sparse, deepsparse.")]
Threads = Annotated[int | None, typer.Option(help="Threads. [default: every core]")]
Batch = Annotated[int, typer.Option(help="Texts in a batch.")]
Sequence = Annotated[int, typer.Option(help="Tokens of each text.")]
Sparsities = Annotated[
    list[float], typer.Option("--sparsity", help="Share of zeros in the weights; repeatable.")
]
Int8 = Annotated[
    bool, typer.Option("--int8/--float32", help="Type of the weights and inputs of the layers.")
]
EveryToken = Annotated[
    bool,
    typer.Option(
        "--every-token", help="Compute the outputs of every token, as for token classification."
    ),
]
Rounds = Annotated[int, typer.Option(help="Number of rounds; each size has one turn in a round.")]
Repetitions = Annotated[int, typer.Option(help="Timed runs in each turn.")]
Seconds = Annotated[
    float, typer.Option(help="Add rounds until each sparsity has been timed for this many seconds.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="New file. [default: latency-RUNTIME.json]")
]


def latency_table(
    model: Model,
    runtime: Name = "onnxruntime",
    threads: Threads = None,
    batch: Batch = 1,
    sequence: Sequence = 128,
    sparsity: Sparsities = [0.0],  # noqa: B006
    int8: Int8 = True,
    every_token: EveryToken = False,
    rounds: Rounds = 8,
    repetitions: Repetitions = 5,
    seconds: Seconds = 20.0,
    output: Output = None,
) -> None:
    """Time the sizes that a model's layers may be shrunk to, on this machine.

    Writes a table for `sparsekit shrink --max-latency` and `recipe.max_latency`.
    """
    from sparsekit.benchmark.latency import LatencyGrid, measure_table
    from sparsekit.errors import UserError
    from sparsekit.runs.progress import quiet_libraries
    from sparsekit.runtime.base import check_threads
    from sparsekit.runtime.choice import runtime_named
    from sparsekit.system import cores

    target = output or Path(f"latency-{runtime}.json")
    if target.exists():
        raise UserError(f"--output {target} exists already; remove it or choose another file")
    count = cores() if threads is None else threads
    check_threads(count, "--threads")
    grid = LatencyGrid(
        threads=count,
        batch=batch,
        sequence=sequence,
        sparsities=tuple(dict.fromkeys(sparsity)),
        int8=int8,
        every_token=every_token,
        rounds=rounds,
        repetitions=repetitions,
        seconds=seconds,
    )
    kind = runtime_named(runtime)
    quiet_libraries()
    config = _config(model)
    # Of every size a graph is exported.
    exports = logging.getLogger("sparsekit.onnx")
    level = exports.level
    exports.setLevel(logging.WARNING)
    try:
        table = measure_table(config, kind, grid)
    finally:
        exports.setLevel(level)
    table.save(target)
    _show(table)
    typer.echo(f"measured: {target}")


def _config(model: str) -> PreTrainedConfig:
    """The config of the model; its weights do not matter for its latency."""
    from sparsekit.models.hub import fetch_model
    from sparsekit.models.loading import check_encoder, read_config

    folder = fetch_model(model, weights=False)
    config = read_config(folder)
    check_encoder(folder, config)
    return config


def _show(table: LatencyTable) -> None:
    """Print the latency of the whole model at each sparsity."""
    layers = table.model["layers"]
    for share, costs in table.costs.items():
        whole = costs.predict([table.model["heads"]] * layers, [table.model["neurons"]] * layers)
        typer.echo(
            f"sparsity {share}: {whole * 1e3:.3g} ms, {costs.base * 1e3:.3g} ms without heads and "
            "neurons"
        )
