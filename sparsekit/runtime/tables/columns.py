"""Which columns of a table hold the texts that a model reads."""

from __future__ import annotations

from collections.abc import Sequence

from sparsekit.errors import UserError, suggestion

# The names that are tried last, of single texts and of pairs.
USUAL = (("text",), ("tokens",), ("text", "text_pair"), ("question", "context"))


def chosen_columns(
    columns: Sequence[str], asked: Sequence[str], trained: Sequence[str], pairs: bool | None
) -> list[str]:
    """The column of texts, or the two columns of pairs.

    Args:
        columns: those of the table.
        asked: those that the user named.
        trained: those that the model was trained on; empty where that is unknown.
        pairs: whether the model reads pairs; None where it may read either.

    Raises UserError that lists the columns where none fits.
    """
    if pairs is None and trained:
        pairs = len(trained) == 2
    if asked:
        for name in asked:
            if name not in columns:
                raise UserError(f"there is no column {name!r}{suggestion(name, columns)}")
        if len(asked) > 2 or (pairs is not None and len(asked) != 1 + pairs):
            count = "1 or 2" if pairs is None else 1 + pairs
            raise UserError(f"--column names {len(asked)} columns; this model reads {count}")
        found = list(asked)
    else:
        found = _guessed(columns, trained, pairs)
    for name in found:
        if list(columns).count(name) > 1:
            raise UserError(f"the file has more than one column {name!r}; rename the others")
    return found


def _guessed(columns: Sequence[str], trained: Sequence[str], pairs: bool | None) -> list[str]:
    usual = [each for each in USUAL if len(each) == 1 + bool(pairs)]
    for names in (trained, *usual):
        if names and set(names) <= set(columns):
            return list(names)
    if len(columns) == 1 and not pairs:
        # Of a file without a header this name is the first text, which would be left out.
        raise UserError(
            f"the only column of the file is {columns[0]!r}: name it with --column, or add a "
            "header line if that is the first text"
        )
    wanted = (
        "the two columns of text with --column twice" if pairs else "that of text with --column"
    )
    raise UserError(f"the file has the columns {', '.join(columns)}: name {wanted}")
