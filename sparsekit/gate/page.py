"""The comparison with the dense baseline as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sparsekit.gate.text import interval, notes, verdict
from sparsekit.metrics.table import as_text

BOTH = ("model", "against")
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; max-width: 60em; margin: 2em auto;
  padding: 0 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 1.5em; }
th, td { padding: .25em .9em .25em 0; text-align: left; border-bottom: 1px solid #8886;
  overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
.passed, .failed { font-weight: 600; border-left: 4px solid; padding-left: .6em; }
.passed { border-color: #2563a8; }
.failed { border-color: #c2410c; }
"""


def page(gate: Mapping[str, Any]) -> str:
    """The page of the content of `gate.json`; every text of it is escaped."""
    verdicts = [
        f'<p class="{"passed" if test["passed"] else "failed"}">'
        f"{escape(verdict(test, gate['rows'], gate['alpha']))}</p>"
        for test in gate["metrics"]
    ]
    scores = [
        (name := test["metric"], *(as_text(name, test[key]) for key in BOTH), interval(name, test))
        for test in gate["metrics"]
    ]
    shown = "accuracy" if gate["changes"] else gate["metrics"][0]["metric"]
    slices = [
        (kind, line["slice"], f"{line['rows']:,}", interval(shown, line))
        for kind, lines in gate["slices"].items()
        for line in lines
    ]
    files = [
        (name, gate[key]["file"], gate[key]["sha256"])
        for name, key in (("model", "model"), ("baseline", "against"), ("rows", "data"))
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>sparsekit gate</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            "<h1>Compared with the dense model</h1>",
            *verdicts,
            _table(("metric", "model", "baseline", "difference"), scores),
            *(f"<p>{escape(note)}</p>" for note in notes(gate)),
            f"<h2>Parts of the {gate['rows']:,} {escape(gate['split'])} rows</h2>",
            _table(("by", "slice", "rows", f"difference of {shown}"), slices),
            "<h2>What was compared</h2>",
            _table(("", "file", "SHA-256"), files),
            "</body>\n</html>\n",
        ]
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return "\n".join(["<table>", line(heads, "th"), *(line(row, "td") for row in rows), "</table>"])
