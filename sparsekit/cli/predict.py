"""`sparsekit predict`: label texts with an exported model."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsekit.cli.allow import Allow, import_allowed
from sparsekit.cli.predict_table import check_options, label_table
from sparsekit.errors import UserError

if TYPE_CHECKING:
    from sparsekit.runtime.base import Runtime

# Control characters, which end a column or line or drive a terminal; other line ends; and the
# escape character itself.
_BREAKS = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]")

Run = Annotated[Path, typer.Argument(help="A run folder, or its deployment folder.")]
Texts = Annotated[
    list[str],
    typer.Argument(help="Texts, or a csv, jsonl, parquet or txt file; - reads lines of stdin."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Pairs = Annotated[
    bool, typer.Option("--pairs", help="Read pairs of texts; a tab separates them within a line.")
]
RuntimeName = Annotated[str, typer.Option(help="onnxruntime, openvino, deepsparse or sparse.")]
Similar = Annotated[
    str | None,
    typer.Option(help="Embedding models: order the texts by similarity to this text."),
]
Rank = Annotated[
    str | None,
    typer.Option(help="Regression on pairs: order the texts by their score with this text."),
]
Columns = Annotated[list[str] | None, typer.Option(help="Files: the text column; twice for pairs.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Files: where to write the rows with their answers."),
]
Prefix = Annotated[
    str | None,
    typer.Option(help="Files: the prefix of the new columns' names. [default: predicted_]"),
]


def predict(
    run: Run,
    texts: Texts,
    as_json: AsJson = False,
    pairs: Pairs = False,
    runtime: RuntimeName = "onnxruntime",
    similar: Similar = None,
    rank: Rank = None,
    column: Columns = None,
    output: Output = None,
    prefix: Prefix = None,
    allow: Allow = None,
) -> None:
    """Label texts with a run's exported model: label, probability and text, tab-separated.

    One line for each text, whose tabs, line breaks and backslashes are escaped as `\\t`, `\\n` and
    `\\\\`. A .txt file and stdin are read by lines, with `--similar QUERY` and `--rank QUERY` too.
    A csv, jsonl or parquet file, which may be compressed, is written again with the answers as
    further columns, to stdout or to `--output`, in memory that does not grow with it.
    """
    from sparsekit.runtime.choice import runtime_named
    from sparsekit.runtime.tables.open import is_table

    import_allowed(allow)
    kind = runtime_named(runtime)
    if len(texts) == 1 and is_table(texts[0]) and similar is None and rank is None:
        if as_json:
            raise UserError("--json belongs to texts: a file is written in its own format")
        if pairs:
            raise UserError("--pairs belongs to texts: name the columns of a file with --column")
        start = "predicted_" if prefix is None else prefix
        label_table(run, Path(texts[0]), output, column or [], start, kind)
        return
    check_options(texts, column or [], output, prefix)
    _check_order(similar, rank, pairs)
    if similar is not None:
        _check_query(similar, "--similar")
        lines = _lines_of(texts, "--similar")
        _print_ordered(_similarities(run, similar, lines, kind), lines, "similarity", as_json)
        return
    if rank is not None:
        _check_query(rank, "--rank")
        lines = _lines_of(texts, "--rank")
        _print_ordered(_relevances(run, rank, lines, kind), lines, "score", as_json)
        return
    _print_answers(run, _rows(run, texts, pairs), pairs, kind, as_json)


def _print_answers(
    run: Path, rows: list[dict[str, Any]], pairs: bool, kind: type[Runtime], as_json: bool
) -> None:
    """Print the answer to each row beside its text, or its texts."""
    from sparsekit.runtime.answers import predict
    from sparsekit.runtime.deployment import deployment_of
    from sparsekit.runtime.tasks.file import read_task

    deployment = deployment_of(run)
    second = [row["text_pair"] for row in rows] if pairs else None
    answers = predict(deployment, [row["text"] for row in rows], second, kind)
    if as_json:
        merged = [row | answer for row, answer in zip(rows, answers, strict=True)]
        typer.echo(json.dumps(merged, indent=2))
        return
    columns_of = read_task(deployment).columns_of
    for row, answer in zip(rows, answers, strict=True):
        typer.echo("\t".join(map(_one_line, [*columns_of(answer), *row.values()])))


def _rows(run: Path, texts: list[str], pairs: bool) -> list[dict[str, Any]]:
    """The rows to label; raises UserError for texts that the model does not read so."""
    if "-" in texts and len(texts) > 1:
        raise UserError("- reads the texts from stdin: give either - or texts")
    files = [text for text in texts if text == "-" or _is_file(text)]
    if files and len(texts) > 1:
        raise UserError(f"{files[0]} is a file: give it alone, or texts")
    if files:
        texts = [text for line in _lines(files[0]) for text in _split_pair(line, pairs)]
    _check_columns(run, pairs)
    if not pairs:
        return [{"text": text} for text in texts]
    if len(texts) % 2:
        raise UserError(f"--pairs takes two texts a row; there are {len(texts)}")
    return [{"text": a, "text_pair": b} for a, b in zip(texts[::2], texts[1::2], strict=True)]


def _lines_of(files: Sequence[str], option: str) -> list[str]:
    """The texts that are ordered: the lines of one file, or of stdin."""
    if len(files) != 1:
        raise UserError(
            f"{option} QUERY orders the lines of one file, or of stdin with -; got {len(files)}"
        )
    if files[0] != "-" and Path(files[0]).suffix.lower() not in ("", ".txt"):
        raise UserError(
            f"{option} QUERY orders the lines of a .txt file, or of stdin with -; {files[0]} is "
            "none: write its texts into one, a line each"
        )
    lines = _lines(files[0])
    if not lines:
        raise UserError(f"there are no texts in {'stdin' if files[0] == '-' else files[0]}")
    return lines


def _check_order(similar: str | None, rank: str | None, pairs: bool) -> None:
    """Raise UserError for options that exclude each other."""
    if similar is not None and rank is not None:
        raise UserError("--similar and --rank both order the texts: give one of them")
    if pairs and rank is not None:
        raise UserError("--rank makes the pairs itself, of its query and each text: drop --pairs")
    if pairs and similar is not None:
        raise UserError("--similar compares single texts: drop --pairs")


def _check_query(query: str, option: str) -> None:
    if not query.strip():
        raise UserError(f"{option} is empty: write a text")


def _similarities(run: Path, query: str, texts: Sequence[str], kind: type[Runtime]) -> list[float]:
    """How similar each text is to `query`."""
    from sparsekit.runtime.answers import predict
    from sparsekit.runtime.deployment import deployment_of
    from sparsekit.runtime.tasks.file import read_task

    deployment = deployment_of(run)
    first, *others = predict(deployment, [query, *texts], None, kind)
    return read_task(deployment).similarities(first, others)


def _relevances(run: Path, query: str, texts: Sequence[str], kind: type[Runtime]) -> list[float]:
    """The number that the model gives the pair of `query` and each text."""
    from sparsekit.runs.folder import trained_columns
    from sparsekit.runtime.answers import predict
    from sparsekit.runtime.deployment import deployment_of
    from sparsekit.runtime.tasks.file import read_task

    deployment = deployment_of(run)
    if read_task(deployment).pairs is False or len(trained_columns(run)) == 1:
        raise UserError(
            f"{run} reads single texts: --rank needs a model of pairs with task=regression"
        )
    relevance = read_task(deployment).relevance
    return [relevance(each) for each in predict(deployment, [query] * len(texts), texts, kind)]


def _print_ordered(scores: Sequence[float], texts: Sequence[str], name: str, as_json: bool) -> None:
    """Print the texts, those of the largest score first."""
    rows = sorted(zip(scores, texts, strict=True), key=lambda row: -row[0])
    if as_json:
        typer.echo(json.dumps([{"text": t, name: s} for s, t in rows], indent=2))
        return
    for score, text in rows:
        typer.echo(f"{score:.4f}\t{_one_line(text)}")


def _lines(file: str) -> list[str]:
    """The lines of a file, or of stdin for -, that are not empty."""
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error}; give a text file in UTF-8") from error
    # A line ends with "\n" or "\r\n": any other line end within it is part of the text. Bytes that
    # are not UTF-8 stay visible to the check of each text.
    lines = content.decode("utf-8-sig", "surrogateescape").split("\n")
    texts = [line.removesuffix("\r") for line in lines]
    return [text for text in texts if text.strip()]


def _check_columns(run: Path, pairs: bool) -> None:
    """Raise UserError where a model of pairs is given single texts, or the reverse."""
    from sparsekit.runs.folder import trained_columns
    from sparsekit.runtime.deployment import deployment_of
    from sparsekit.runtime.tasks.file import read_task

    fixed = read_task(deployment_of(run)).pairs
    if fixed is not None and fixed != pairs:
        kind, change = ("pairs of", "add") if fixed else ("single", "leave out")
        raise UserError(f"{run} reads {kind} texts: {change} --pairs")
    if fixed is not None:
        return
    columns = trained_columns(run)
    if len(columns) == 2 and not pairs:
        raise UserError(f"{run} was trained on pairs of {' and '.join(columns)}: add --pairs")
    if len(columns) == 1 and pairs:
        raise UserError(f"{run} was trained on single texts, {columns[0]}: leave out --pairs")


def _is_file(name: str) -> bool:
    """Whether an argument is a file of lines, or a table, rather than a text.

    Raises UserError for a file of another kind, and for the name of a .txt file that is not there.
    """
    from sparsekit.runtime.tables.open import is_table

    path = Path(name)
    lines = path.suffix.lower() == ".txt"
    if not os.path.isfile(name):  # of a text that is too long for a name too
        if lines and not name.split()[1:]:
            raise UserError(f"there is no file {name}")
        return False
    if path.suffix and not lines and not is_table(name):
        raise UserError(
            f"{name} is a file of another kind; give one csv, tsv, jsonl or parquet file, or a "
            ".txt file of lines"
        )
    return lines or is_table(name)


def _split_pair(line: str, pairs: bool) -> list[str]:
    """The text of a line, or its two texts."""
    texts = line.split("\t") if pairs else [line]
    if pairs and len(texts) != 2:
        raise UserError(f"--pairs takes two texts a line, a tab apart; this line is {line!r}")
    return texts


def _one_line(text: str) -> str:
    """`text` with everything escaped that would end its column or line."""
    return _BREAKS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
