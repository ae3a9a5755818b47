"""The figures of a data set as a table for the terminal, and as lines of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

# Classes that are listed; the rarest are, since they are learned worst.
CLASSES = 20


def table(figures: Mapping[str, Any]) -> Table:
    """The figures of `profile` and of token lengths, a column for each split."""
    view = Table(title="Data", show_header=True)
    view.add_column("")
    for split in figures["splits"]:
        view.add_column(split, justify="right", no_wrap=True)
    for what, cells in _lines(figures):
        view.add_row(Text(what, overflow="fold"), *map(Text, cells))
    return view


def markdown(figures: Mapping[str, Any]) -> list[str]:
    """The same as the lines of a Markdown table."""
    names = list(figures["splits"])
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for what, cells in _lines(figures):
        escaped = what.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {escaped} | {' | '.join(cells)} |")
    return lines


def _lines(figures: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """What each line is about, and its value for each split."""
    splits = list(figures["splits"].values())
    yield "rows", [_count(split) for split in splits]
    yield from _class_lines(splits)
    if any("tokens" in split for split in splits):
        tokens = [split.get("tokens") for split in splits]
        yield (
            "tokens: median, 99 %, longest",
            [f"{t['median']}, {t['p99']}, {t['max']}" if t else "-" for t in tokens],
        )
        pairs = zip(tokens, splits, strict=True)
        yield (
            f"cut by max_length={figures['max_length']}",
            [_share(t["cut"], s["rows"]) if t else "-" for t, s in pairs],
        )
    yield "repeated texts", [f"{split['repeated']['rows']:,}" for split in splits]
    if any("in_train" in split for split in splits):
        yield (
            "texts that are also in train",
            [f"{s['in_train']['rows']:,}" if "in_train" in s else "-" for s in splits],
        )
    if any("near_train" in split for split in splits):
        yield (
            "near-duplicates of texts in train",
            [f"{s['near_train']['rows']:,}" if "near_train" in s else "-" for s in splits],
        )
    if "contradictions" in figures:
        found = figures["contradictions"]
        yield (
            "texts with several labels",
            [f"{found[s]['rows']:,}" if s in found else "-" for s in figures["splits"]],
        )
    if len(figures["scripts"]) > 1:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in figures["scripts"].items())
        yield "scripts of train", [shares, *["-"] * (len(splits) - 1)]


def _count(split: Mapping[str, Any]) -> str:
    """The number of rows; of a stream those that its figures are of."""
    return f"the first {split['rows']:,}" if split.get("streamed") else f"{split['rows']:,}"


def _class_lines(splits: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    counts = [split.get("classes", {}) for split in splits]
    names = sorted(counts[0], key=lambda name: counts[0][name])
    shown = names[:CLASSES]
    for name in counts[0]:
        if name in shown:
            yield (
                f"class {name}",
                [
                    _share(c[name], s["rows"]) if name in c else "-"
                    for c, s in zip(counts, splits, strict=True)
                ],
            )
    if len(names) > CLASSES:
        yield f"{len(names) - CLASSES} more classes", ["more rows each", *["-"] * (len(splits) - 1)]


def _share(count: int, rows: int) -> str:
    """A count and its share of the rows.

    >>> _share(25, 1000), _share(0, 10)
    ('25, 2.5 %', '0')
    """
    return f"{count:,}, {100 * count / rows:.1f} %" if count else "0"
