"""What a comparison ends with, where whoever made the runs was looking for one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from sparsekit.compare.text import escaped_cell, table_row


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """Which run was chosen, and why: sentences, and a table of all runs that were considered."""

    sentences: Sequence[str]
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown_section(conclusion: Conclusion) -> str:
    """A section of `compare.md`."""
    rows = [conclusion.headings, ["---"] * len(conclusion.headings), *conclusion.rows]
    lines = [
        *("## Conclusion", "", *map(escaped_cell, conclusion.sentences), ""),
        *(table_row(cell if cell == "---" else escaped_cell(cell) for cell in row) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def html_section(conclusion: Conclusion) -> str:
    """A section of the page; every text in it is escaped."""

    def line(cells: Iterable[str], tag: str) -> str:
        inner = "".join(f'<{tag} class="text">{escape(cell)}</{tag}>' for cell in cells)
        return f"<tr>{inner}</tr>"

    return "\n".join(
        [
            '<section class="wide" id="conclusion"><h2>Conclusion</h2>',
            *(f"<p>{escape(sentence)}</p>" for sentence in conclusion.sentences),
            f'<div class="scroll"><table><thead>{line(conclusion.headings, "th")}</thead><tbody>',
            *(line(row, "td") for row in conclusion.rows),
            "</tbody></table></div></section>",
        ]
    )
