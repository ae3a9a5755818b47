"""The columns that a task reads from a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Column:
    """A column that a task reads: its name in the data set, and the config key that names it.

    lists: whether each row holds a list.
    objects: whether each row holds an object, which text files give as its JSON text.
    role: an optional text may be empty in some rows; a class is one label a row, and splits are
        made so that each has its share of every class; labels are any number of labels a row,
        perhaps none; a target is anything else to be learned.
    strip: of a class: whether blanks around labels are left out.
    ignore_case: of a class: whether labels that differ in case alone are one.
    """

    name: str
    key: str
    lists: bool = False
    objects: bool = False
    role: Literal["text", "optional text", "class", "labels", "target"] = "text"
    strip: bool = True
    ignore_case: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the model reads the column."""
        return self.role in ("text", "optional text")


def lacking(columns: Sequence[Column], present: Sequence[str]) -> list[Column]:
    """Those of `columns` that are not among the columns `present`."""
    return [column for column in columns if column.name not in present]


def keys(columns: Sequence[Column]) -> str:
    """The config keys that name the columns, each once.

    >>> keys([Column("a", "dataset.text_columns"), Column("b", "dataset.score_column")])
    'dataset.text_columns and dataset.score_column'
    """
    return " and ".join(dict.fromkeys(column.key for column in columns))


def listed(columns: Sequence[Column]) -> str:
    """The names of the columns.

    >>> listed([Column("a", "dataset.text_columns"), Column("b", "dataset.score_column")])
    'a, b'
    """
    return ", ".join(column.name for column in columns)
