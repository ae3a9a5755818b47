"""Texts without labels: of files, and made from the training texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from sparsekit.cache import content_hash
from sparsekit.config.build import build
from sparsekit.data.augmentation import Augmentation
from sparsekit.data.columns import values
from sparsekit.data.delimited import CsvFormat
from sparsekit.data.fingerprint import files_hash
from sparsekit.data.origin import column_names
from sparsekit.data.readers import read_files
from sparsekit.data.schema import Column, lacking, listed
from sparsekit.errors import ConfigError, UserError
from sparsekit.system import expanded


@dataclass(frozen=True, kw_only=True)
class MoreTexts:
    """Texts that only the teacher labels, beside the rows of the data set.

    Args:
        unlabeled: a file of any kind, a folder of files, or a list of these, with the columns of
            text of the data set; no labels are read.
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

    def read(self, columns: Sequence[Column], form: CsvFormat) -> list[list[str]]:
        """The texts of the files, for each of `columns`; raises UserError where there are none.

        The words of a list are joined by blanks; a column of lists may hold texts instead.

        form: how csv files are written; they may have a header even so.
        """
        found: list[list[str]] = [[] for _ in columns]
        for name in self.files:
            path = expanded(name)
            if not path.exists():
                raise UserError(f"dataset.unlabeled: there is no file {path}")
            rows = _rows(path, columns, form)
            if absent := lacking(columns, rows.column_names):
                raise UserError(
                    f"dataset.unlabeled: {path} has no column {listed(absent)}; it has "
                    f"{', '.join(column_names(rows))}"
                )
            for texts, column in zip(found, columns, strict=True):
                texts += [_text(value, path, column) for value in values(rows, column.name)]
        return found


def _rows(path: Path, columns: Sequence[Column], form: CsvFormat) -> Dataset:
    if not any(column.lists for column in columns):
        return _texts(path, columns, form)
    try:
        # As texts first: csv files hold no lists, and the error then says what else is wrong.
        return _texts(path, [replace(column, lists=False) for column in columns], form)
    except ConfigError as error:
        try:
            return _texts(path, columns, form)
        except UserError:
            raise error from None


def _texts(path: Path, columns: Sequence[Column], form: CsvFormat) -> Dataset:
    if form.columns is not None:
        with suppress(ConfigError):  # No header, or one without the columns.
            return read_files(path, columns, form=replace(form, columns=None))
    return read_files(path, columns, form=form)


def _text(value: Any, path: Path, column: Column) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    wanted = "text or a list of words" if column.lists else "text"
    if column.lists and isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    raise UserError(
        f"dataset.unlabeled: {path}, column {column.name!r} holds {value!r:.80}, not {wanted}"
    )
