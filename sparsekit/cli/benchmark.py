"""`sparsekit benchmark`: latency and throughput of runs, beside their dense baselines."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsekit.cli.allow import Allow, import_allowed
from sparsekit.runs.folder import RunFolder

if TYPE_CHECKING:
    from rich.table import Table

    from sparsekit.benchmark.grid import Grid
    from sparsekit.benchmark.requests import BenchmarkConfig
    from sparsekit.runtime.base import Runtime

Sizes = list[int]


def benchmark(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    batch: Annotated[Sizes, typer.Option(help="Batch size; repeatable.")] = [1, 32],  # noqa: B006
    sequence: Annotated[
        Sizes | None,
        typer.Option(
            help="Tokens in each row. [default: 32 and 128, limited to the model's positions]"
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Number of rounds; each runtime has one turn in a round.")
    ] = 8,
    repetitions: Annotated[int, typer.Option(help="Timed runs in each turn.")] = 5,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each runtime. [default: every core]")
    ] = None,
    allow: Allow = None,
) -> None:
    """Time runs on every runtime of this machine, in turns with their dense baselines.

    Writes benchmark.json and benchmark.png to each run folder. A failed run for which this was the
    last missing stage becomes completed.
    """
    from sparsekit.benchmark.grid import Grid
    from sparsekit.runs.progress import quiet_libraries
    from sparsekit.system import cores

    quiet_libraries()
    import_allowed(allow)
    grid = Grid(
        batches=list(dict.fromkeys(batch)),
        sequences=list(dict.fromkeys(sequence or [])),
        rounds=rounds,
        repetitions=repetitions,
        threads=cores() if threads is None else threads,
    )
    # Check every run before the first one is timed and its older timings are replaced.
    folders = [RunFolder(run) for run in runs]
    for run in folders:
        _ = run.summary
    planned = [(run, _requests(run, threads), _fitted(run, grid)) for run in folders]
    for run, config, fitted in planned:
        _time(run, config, fitted)


def _time(run: RunFolder, config: BenchmarkConfig, grid: Grid) -> None:
    """Time one run, write what was measured, and print it."""
    from sparsekit.benchmark.requests import benchmark as time_run
    from sparsekit.pipeline.completion import completed
    from sparsekit.runs.report import show

    with run.lock():
        # Requests at their own length, as at the end of a run; then the grid of fixed sizes.
        timings = time_run(run.path, config, _runtimes(run))
        rows, files, advice = _compare(run, grid)
        # Read here: another process may have written it before this one took the lock.
        summary, missing = completed(run, {**run.summary, "runtime": timings})
        run.write_summary(summary)
    show(_table(rows, str(run)))
    show(_sizes(files))
    for sentence in advice:
        typer.echo(sentence)
    if missing:
        typer.echo(f"{run} stays failed: {missing}", err=True)


def _requests(run: RunFolder, threads: int | None) -> BenchmarkConfig:
    """The settings with which the run timed single requests; `threads` overrides its own."""
    from sparsekit.benchmark.requests import BenchmarkConfig, requests_of

    config = requests_of(run) or BenchmarkConfig()
    return config if threads is None else replace(config, threads=threads)


def _runtimes(run: RunFolder) -> list[type[Runtime]]:
    """The runtimes of this machine that run the deployment in its exported form."""
    from sparsekit.runtime.choice import runtimes_for

    form = (run.node("export") or {}).get("form", "qdq")
    return runtimes_for(run.graph, form)


def _fitted(run: RunFolder, grid: Grid) -> Grid:
    """`grid` limited to lengths that the model takes.

    Raises UserError if the run has no deployment, or if the model takes none of the lengths.
    """
    from sparsekit.models.loading import positions_of, read_config
    from sparsekit.runtime.encoder import TextEncoder

    deployment = run.deployment
    encoder = TextEncoder(deployment)
    positions = positions_of(read_config(deployment))
    return grid.fitted(encoder.max_length if positions is None else positions)


def _compare(
    run: RunFolder, grid: Grid
) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]], list[str]]:
    """Time the run's model and its baselines; write benchmark.json and the chart.

    Returns the timings, the file sizes by candidate, and advice in sentences.
    """
    from sparsekit.benchmark.advice import advice, size_advice
    from sparsekit.benchmark.candidates import DENSE, candidates, missing, sizes
    from sparsekit.benchmark.chart import draw
    from sparsekit.benchmark.grid import time_all
    from sparsekit.models.inspection import inspect
    from sparsekit.runtime.encoder import read_json
    from sparsekit.system import cpu_units
    from sparsekit.tasks.config import task_of

    vocabulary = read_json(run.deployment / "config.json")["vocab_size"]
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=run.path) as scratch:
        timed = candidates(run.model, task_of(run), Path(scratch))
        files = sizes(timed)
        rows = time_all(timed, grid, vocabulary)
    ours = next(candidate.name for candidate in timed if candidate.form is not None)
    zeros = inspect(str(run.model)).sparsity
    sentences = [*advice(rows, cpu_units(), zeros), size_advice(files, DENSE, ours)]
    sentences += [f"Not timed: {name} is not installed: {fix}" for name, fix in missing().items()]
    details = read_json(run.benchmark) | {"grid": rows, "sizes": files, "advice": sentences}
    run.benchmark.write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
    try:
        draw(rows, "/".join(run.path.resolve().parts[-2:]), run.benchmark_chart)
    except ImportError:
        sentences.append("No chart: matplotlib is not installed: pip install 'sparsekit[plot]'")
    return rows, files, sentences


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    """A table of 80 columns: one section for each size; what all rows share is in the caption."""
    from rich import box
    from rich.table import Table

    view = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    view.add_column("model, runtime")
    for heading in ("batch x\ntokens", "p50 ms", "p99 ms", "items/s", "speed-up", "MB"):
        view.add_column(heading, justify="right", no_wrap=True)
    threads = f"{rows[0]['threads']} thread{'s' * (rows[0]['threads'] > 1)}"
    view.caption = f"{threads}; MB: memory; speed-up: over {rows[0]['name']}"
    before = None
    for row in rows:
        size = f"{row['batch']} x {row['sequence']}"
        if before not in (None, size):
            view.add_section()
        before = size
        view.add_row(
            row["name"],
            size,
            *(f"{row[key]:.2f}" for key in ("latency_ms_p50", "latency_ms_p99")),
            f"{row['items_per_second']:,.0f}",
            f"{row['speedup']:.2f}x",
            f"{row['memory_bytes'] / 1e6:.0f}",
        )
    return view


def _sizes(files: dict[str, dict[str, int]]) -> Table:
    from rich import box
    from rich.table import Table

    view = Table("file of", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading in ("MB", "zstd, MB"):
        view.add_column(heading, justify="right", no_wrap=True)
    for name, size in files.items():
        view.add_row(name, *(f"{size[key] / 1e6:.2f}" for key in ("bytes", "bytes_compressed")))
    return view
