"""Text in csv files that spreadsheets open, which take some of it for formulas."""

from __future__ import annotations

import re

# Spreadsheets run a cell that begins so as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[\d.]+([eE][+-]?\d+)?")


def no_formula(text: str) -> str:
    """`text` as a cell that no spreadsheet evaluates: a formula begins with an apostrophe.

    >>> no_formula("=1+1"), no_formula("a = b"), no_formula("-0.5"), no_formula("-0.5-1")
    ("'=1+1", 'a = b', '-0.5', "'-0.5-1")
    """
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
