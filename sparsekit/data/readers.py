"""Local data files: csv and json, read so that nothing shifts, is dropped or guessed in silence."""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from pathlib import Path

import datasets
from datasets import Dataset
from pandas.errors import ParserWarning

from sparsekit.errors import UserError, first_line

_FIXES = {
    "csv": 'separate fields by commas, and put text with commas in "quotes"',
    "json": "write one object per line, or one list of objects",
}


def read_file(path: Path, form: str) -> Dataset:
    """The rows of a csv or json file; raises UserError with what its reader found wrong."""
    try:
        if form == "json":
            return Dataset.from_json(str(path))
        with warnings.catch_warnings():
            # Rows with more fields than the header: pandas would drop what is too much.
            warnings.simplefilter("error", ParserWarning)
            _refuse_repeated_columns(path)
            # "NA" or "null" in a review is a word, not a missing value; an empty field is missing.
            # Without index_col, longer rows would shift all columns by one.
            return Dataset.from_csv(
                str(path), keep_default_na=False, na_values=[""], index_col=False
            )
    except UserError:
        raise
    except Exception as error:  # the reader wraps whatever pandas or arrow raise
        raise UserError(_unreadable(path, form, error.__cause__ or error)) from error


def _refuse_repeated_columns(path: Path) -> None:
    # pandas would rename the second one, and nobody would know that the first was read.
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file), [])
    repeated = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if repeated:
        raise UserError(
            f"{path} has more than one column {', '.join(repeated)}; rename or remove the others"
        )


def _unreadable(path: Path, form: str, cause: BaseException) -> str:
    if "no data" in str(cause):
        return f"{path} has no rows"
    if isinstance(cause, ParserWarning):
        return f'{path}: a row has more fields than the header; put text with commas in "quotes"'
    if isinstance(cause, OSError):
        return (
            f"cannot read {path}: {cause}; the file must be readable, and HF_HOME, now "
            f"{datasets.config.HF_CACHE_HOME}, a folder that can be written"
        )
    fix = "save it as UTF-8" if isinstance(cause, UnicodeDecodeError) else _FIXES[form]
    return f"cannot read {path} as {form}: {first_line(cause)}; {fix}"
