"""A run folder's `summary.json` as a table. Imports no torch."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from sparsekit.metrics.difference import model_minus_baseline
from sparsekit.metrics.report import read_report, worst_class
from sparsekit.metrics.table import as_text, is_share
from sparsekit.runs.example import example_texts, reads_pairs
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.remarks import SPLITS, remarks
from sparsekit.system import command

PIPED = 1000  # columns at most without a terminal

# Where the user types commands, for a process that left that folder.
_typed_in: Path | None = None


def commands_typed_in(directory: Path) -> None:
    """Name run folders as a user in `directory` types them, whatever folder this process is in."""
    global _typed_in
    _typed_in = directory


def show(view: Table, stderr: bool = False) -> None:
    """Print a table without cutting its values, even where it is wider than the terminal.

    stderr: whether it accompanies a run, instead of being what a command was asked for.

    In a file or a pipe it is as wide as its longest words, so that a search finds them.
    """
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        wide = console.options.update(width=PIPED)
        console.width = max(console.width, console.measure(view, options=wide).maximum)
    needed = [
        max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        if column.no_wrap
        else column.min_width or 1
        for column in view.columns
    ]
    # Two for the space around each column, which two may share, one for a line between two.
    around = 2 if view.collapse_padding else 3
    console.width = max(console.width, sum(needed) + around * len(needed))
    console.print(view)


def closing_table(summary: Mapping[str, Any], run: RunFolder | None = None) -> Group:
    """The results of a run, and commands to try next on its folder `run` (None: the word RUN).

    `summary` is that of `summary.json`; a stage that did not run has no row.
    """
    view = Table(title=f"run {summary['status']}", show_header=False)
    view.add_column("what")
    view.add_column("value", justify="right", overflow="fold")
    for what, value in [*rows(summary), *([] if run is None else worst_classes(run))]:
        view.add_row(what, Text(value))
    pairs = reads_pairs(run)
    name = "RUN" if run is None else shlex.quote(_short(run.path))
    commands = next_commands(summary, name, example_texts(run, 1 + pairs))
    # Whole lines, whatever the width: a break within a command would be copied with it.
    lines = [Text(f"  {text}", no_wrap=True, overflow="ignore") for text in commands]
    found = [] if run is None else remarks(run, summary)
    warnings = [Text(line, overflow="fold") for line in found]
    return Group(view, *warnings, *([Text("Try next:"), *lines] if lines else []))


def show_closing(summary: Mapping[str, Any], run: RunFolder) -> None:
    """Print the closing table; commands that are wider than the terminal are not cropped."""
    Console().print(closing_table(summary, run), crop=False)


def worst_classes(run: RunFolder) -> Iterator[tuple[str, str]]:
    """The class of the lowest F1 of each split, where there are more than two."""
    for split in SPLITS:
        report = read_report(run.evaluations, split)
        if report and len(report["classes"]) > 2 and (worst := worst_class(report)):
            name, f1 = worst
            scores = report["classes"][name]
            yield (
                f"worst class, {split}",
                f"{name}: F1 {f1:.2%}, recall {scores['recall']:.2%} of {scores['support']:,} rows",
            )


def rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of each row of the closing table."""
    if summary["status"] != "completed":
        yield "error", str(summary.get("error"))
    yield from _metrics("", summary.get("metrics", {}))
    yield from _metrics("teacher ", summary.get("teacher", {}))
    if "sparsity" in summary:
        yield "sparsity", f"{summary['sparsity']['overall']:.2%}"
    yield from _shape(summary.get("shape") or {})
    if export := summary.get("export"):
        # Absent where the export left the comparison with torch out.
        yield from _metrics("exported ", {"validation": export.get("metrics") or {}})
        matmuls = export["int8_matmuls"] + export["fp32_matmuls"]
        yield "int8 matmuls", f"{export['int8_matmuls']} of {matmuls}"
        size, compressed = decimal(export["bytes"]), decimal(export["bytes_compressed"])
        yield "size", f"{size}, compressed {compressed}"
    for name, change in summary.get("gate", {}).get("metrics", {}).items():
        yield f"{name} against the dense model", _change(name, change)
    for name, timing in summary.get("runtime", {}).items():
        p50, p99 = timing["latency_ms_p50"], timing["latency_ms_p99"]
        yield f"{name} latency p50, p99", f"{p50:.2f} ms, {p99:.2f} ms"
        yield f"{name} throughput", f"{timing['items_per_second']:,.0f} items/s"
    if address := summary.get("pushed"):
        yield "pushed", address
    if train := summary.get("train"):
        yield "training", f"{train['seconds']:.0f} s, {train['steps']} steps"


def next_commands(summary: Mapping[str, Any], run: str, texts: Sequence[str]) -> list[str]:
    """Commands that work on the files that this run wrote; `texts` are for its model to read."""
    commands, sparsekit = [], command()
    if summary.get("export"):
        pairs = "--pairs " if len(texts) == 2 else ""
        commands.append(f"{sparsekit} predict {run} {pairs}{' '.join(map(shlex.quote, texts))}")
    if "sparsity" in summary:
        commands.append(f"{sparsekit} inspect {run}/model")
    if summary.get("runtime"):
        commands.append(f"{sparsekit} benchmark {run}")
    return commands


def _metrics(prefix: str, metrics: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, str]]:
    for split in SPLITS:
        for name, value in metrics.get(split, {}).items():
            yield f"{prefix}{name}, {split}", as_text(name, value)


def _shape(shape: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is left of a shaped student, and its latency as its table predicts it and as it is."""
    for name in ("heads", "neurons") if shape else ():
        left, before = sum(shape[name]), sum(shape["before"][name])
        yield f"{name} left", f"{left:,} of {before:,}"
    if latency := shape.get("latency"):
        found = [f"{latency['predicted_ms']:.3g} ms"]
        if "measured_ms" in latency:
            found.append(f"{latency['measured_ms']:.3g} ms")
        names = " latency predicted, measured"[: None if len(found) == 2 else -len(", measured")]
        size = f"{latency['batch']} x {latency['sequence']} tokens"
        yield f"{latency['runtime']}{names}", f"{', '.join(found)} ({size})"


def _change(metric: str, change: Mapping[str, float]) -> str:
    """
    >>> _change("accuracy", {"difference": -0.004, "lower": -0.013, "upper": 0.005})
    '-0.40 (-1.30 to +0.50) points'
    """
    scale, name = (100, " points") if is_share(metric) else (1, "")
    found = model_minus_baseline(metric, change)
    values = [f"{value * scale:+.2f}" for value in found if value is not None]
    return f"{values[0]} ({values[1]} to {values[2]}){name}"


def _short(run: Path) -> str:
    """`run` as a user in this directory would type it."""
    run, here = run.absolute(), _typed_in or Path.cwd()
    return str(run.relative_to(here) if run.is_relative_to(here) else run)
