"""The `sparsekit` command. Each verb imports what it needs, so that `--help` starts at once."""

from __future__ import annotations

import errno
import io
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sparsekit.cli.benchmark import benchmark, run_node
from sparsekit.cli.prune import prune
from sparsekit.cli.recipe import recipes
from sparsekit.cli.share import pull, verify, workspace
from sparsekit.errors import UserError
from sparsekit.system import bound_spinning

if TYPE_CHECKING:
    from rich.console import Console

Run = Annotated[Path, typer.Argument(help="A run folder, as `run: <folder>` names it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Tabs, and all that ends a line for one reader or another; and what they are escaped with.
_BREAKS = re.compile(r"[\\\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")

# No right to read or write a file, and a disk that takes no writing.
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class Verbs(TyperGroup):
    """Ends in exit code 1 and one message on stderr for a mistake that the user can mend."""

    def invoke(self, ctx: Any) -> Any:
        bound_spinning()
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        except OSError as error:
            if error.errno not in FORBIDDEN:
                raise
            typer.echo(f"error: {error}; give yourself the right, or copy the folder", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Prune, distil, quantize, export, prove, deploy. Train with launch.py; use runs here.",
)
app.add_typer(recipes, name="recipe")
app.command()(prune)
app.command()(benchmark)
app.command()(verify)
app.command()(pull)
app.command()(workspace)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder, or its deployment folder.")],
    texts: Annotated[list[str], typer.Argument(help="Texts to label; - reads stdin by lines.")],
    as_json: Json = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Two texts a row; in a line of stdin, a tab apart.")
    ] = False,
    runtime: Annotated[
        str, typer.Option(help="onnxruntime, openvino, deepsparse or sparse.")
    ] = "onnxruntime",
) -> None:
    """Label texts with a run's exported model: label, probability and text, tab-separated.

    A line for each: tabs, line breaks and backslashes of a text are written \\t, \\n and \\\\.
    """
    from sparsekit.runs.report import text_columns
    from sparsekit.runtime.answers import predict
    from sparsekit.runtime.choice import runtime_named

    if "-" in texts and len(texts) > 1:
        raise UserError("- reads the texts from stdin: give either - or texts")
    if texts == ["-"]:
        # What is not UTF-8 stays visible to the check of each text.
        lines = io.TextIOWrapper(sys.stdin.buffer, "utf-8", "surrogateescape")
        texts = [line.removesuffix("\n") for line in lines]
        if pairs:
            texts = [text for line in texts for text in _halves(line)]
    columns = text_columns(run) or text_columns(run.absolute().parent)
    if len(columns) == 2 and not pairs:
        raise UserError(f"{run} was trained on pairs of {' and '.join(columns)}: add --pairs")
    if len(columns) == 1 and pairs:
        raise UserError(f"{run} was trained on single texts, {columns[0]}: leave out --pairs")
    if pairs and len(texts) % 2:
        raise UserError(f"--pairs takes two texts a row; these are {len(texts)}")
    rows: list[dict[str, Any]] = [{"text": text} for text in texts]
    if pairs:
        rows = [{"text": a, "text_pair": b} for a, b in zip(texts[::2], texts[1::2], strict=True)]
    inner = run / "deployment"
    seconds = [row["text_pair"] for row in rows] if pairs else None
    deployment, firsts = inner if inner.is_dir() else run, [row["text"] for row in rows]
    answers = predict(deployment, firsts, seconds, runtime_named(runtime))
    if as_json:
        merged = [row | answer for row, answer in zip(rows, answers, strict=True)]
        typer.echo(json.dumps(merged, indent=2))
        return
    for row, answer in zip(rows, answers, strict=True):
        columns = [answer["label"], f"{answer['score']:.3f}", *row.values()]
        typer.echo("\t".join(map(_one_line, columns)))


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a Hub id.")],
    as_json: Json = False,
) -> None:
    """Show each layer's sparsity, N:M pattern and quantization."""
    from sparsekit.models.inspection import inspect, table
    from sparsekit.runs.report import show

    inspection = inspect(model)
    if as_json:
        typer.echo(json.dumps(inspection.as_dict(), indent=2))
    else:
        show(table(inspection))


@app.command()
def export(run: Run) -> None:
    """Export a run's model again, with the run's own export config and all its checks.

    A failed run that lacks nothing any more is completed by it.
    """
    from sparsekit.config.build import build
    from sparsekit.export.hub import push
    from sparsekit.export.onnx import ExportConfig
    from sparsekit.export.onnx import export as export_run
    from sparsekit.pipeline.completion import completed
    from sparsekit.runs.folder import held
    from sparsekit.runs.progress import quiet_libraries
    from sparsekit.runs.report import closing_table, read_summary
    from sparsekit.runs.summary import write_summary

    quiet_libraries()
    node, before = run_node(run, "export"), read_summary(run)
    config = build(node, "export", ExportConfig) if node else ExportConfig()
    with held(run):
        summary = {**before, "export": export_run(run, config)}
        write_summary(run, summary)
        if config.push_to_hub is not None:
            summary["pushed"] = push(run / "deployment", config.push_to_hub)
            write_summary(run, summary)
        summary, lacking = completed(run, summary)
        write_summary(run, summary)
    _console().print(closing_table(summary, run))
    if lacking:
        typer.echo(f"the run stays failed: {lacking}", err=True)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Runs, sweeps, or folders above them.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; default: FOLDER.")] = None,
    metric: Annotated[
        str | None, typer.Option(help='What to rank by, such as "test accuracy".')
    ] = None,
) -> None:
    """Compare runs over their seeds: a table here, compare.md, compare.csv and compare.html."""
    from sparsekit.compare.write import table, write_comparison
    from sparsekit.runs.report import show

    comparison, files = write_comparison(folders, out, metric)
    if comparison.groups:
        show(table(comparison))
    for run in comparison.others:
        why = (run.error or "").partition("\n")[0]
        typer.echo(f"{run.status}: {run.folder}: {why}", err=True)
    typer.echo("compare: " + " ".join(map(str, files)))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what this machine can run; exit code 1 if a needed package is missing."""
    from rich.table import Table
    from rich.text import Text

    from sparsekit.cli.doctor_report import diagnose, missing
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
    missing(findings)


def _halves(line: str) -> tuple[str, str]:
    """The two texts of a line, which one tab parts."""
    texts = line.split("\t")
    if len(texts) != 2:
        raise UserError(f"--pairs takes two texts a line, a tab apart; this is no such: {line!r}")
    return texts[0], texts[1]


def _one_line(text: str) -> str:
    """`text` without what would end its column or line; backslashes are doubled to tell apart."""
    return _BREAKS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _console() -> Console:
    from rich.console import Console

    return Console()
