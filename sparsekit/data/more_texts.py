"""Texts without labels: of files, and made from the training texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsekit.cache import content_hash
from sparsekit.config.build import build
from sparsekit.data.augmentation import Augmentation
from sparsekit.data.columns import values
from sparsekit.data.datasets import Source
from sparsekit.data.fingerprint import files_hash
from sparsekit.data.origin import column_names
from sparsekit.data.schema import Column, lacking, listed
from sparsekit.errors import ConfigError, UserError
from sparsekit.system import expanded

# A list of words in json, or as Python prints it, which pandas writes to csv files.
_LIST = re.compile(r"""\[\s*(["'].*["'])?\s*\]""", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class MoreTexts:
    """Texts that only the teacher labels, beside the rows of the data set.

    Args:
        unlabeled: a file of any kind, a folder of files, or a list of these, with the columns of
            text of the data set; no labels are read. A .txt file may have one text a line.
        augment: how many texts are made from those of the training rows and of `unlabeled`; see
            `sparsekit.data.augmentation.Augmentation`.
    """

    unlabeled: str | list[str] | None = None
    augment: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """The files and folders of `unlabeled`."""
        given = self.unlabeled or []
        return [given] if isinstance(given, str) else list(given)

    @property
    def augmentation(self) -> Augmentation:
        """What `augment` says; raises ConfigError for what is wrong in it."""
        target = f"{Augmentation.__module__}.{Augmentation.__qualname__}"
        made: Augmentation = build({**self.augment, "_target_": target}, "dataset.augment")
        return made

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self.files) or self.augmentation.copies > 0

    def problems(self) -> list[str]:
        """What is wrong with the values, each with its fix."""
        try:
            return self.augmentation.problems()
        except ConfigError as error:
            return error.problems

    def files_hash(self, labelled: str | None) -> str | None:
        """A hash of these files and of those with labels, whose hash is `labelled`."""
        named = {str(at): name for at, name in enumerate(self.files)}
        return content_hash([labelled or "", files_hash(named)]) if named else labelled

    def read(self, columns: Sequence[Column], source: Source) -> list[list[str]]:
        """The texts of the files, for each of `columns`; raises UserError where there are none.

        The words of a list are joined by blanks; a column of lists may hold texts instead.

        source: that of the data set, whose kinds of files are read.
        """
        found: list[list[str]] = [[] for _ in columns]
        for name in self.files:
            path = expanded(name)
            if not path.exists():
                raise UserError(f"dataset.unlabeled: there is no file {path}")
            rows = source.unlabelled(path, columns)
            if absent := lacking(columns, rows.column_names):
                raise UserError(
                    f"dataset.unlabeled: {path} has no column {listed(absent)}; it has "
                    f"{', '.join(column_names(rows))}"
                )
            for texts, column in zip(found, columns, strict=True):
                texts += [_text(value, path, column) for value in values(rows, column.name)]
        return found


def _text(value: Any, path: Path, column: Column) -> str:
    if column.lists and isinstance(value, str) and _LIST.fullmatch(value.strip()):
        raise UserError(
            f"dataset.unlabeled: {path}, column {column.name!r} holds the list {value!r:.80} as "
            "text; write json with a list in each row, or the words with blanks between them"
        )
    if value is None or isinstance(value, str):
        return value or ""
    wanted = "text or a list of words" if column.lists else "text"
    if column.lists and isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    raise UserError(
        f"dataset.unlabeled: {path}, column {column.name!r} holds {value!r:.80}, not {wanted}"
    )
