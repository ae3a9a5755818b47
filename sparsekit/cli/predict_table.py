"""`sparsekit predict` on a file of rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsekit.errors import UserError, reworded

if TYPE_CHECKING:
    from sparsekit.runtime.base import Runtime

# Seconds between two reports of progress, in a terminal and in a file.
TERMINAL, FILE = 0.5, 30.0


class Progress:
    """Rows done and rows a second, on stderr: one line in a terminal, one every 30 s elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self.rows = self.empty = 0

    def __call__(self, rows: int, empty: int) -> None:
        self.rows, self.empty = rows, empty
        now = time.monotonic()
        if now - self._shown >= (TERMINAL if self._terminal else FILE):
            self._shown = now
            self._write("\r" if self._terminal else "", "" if self._terminal else "\n")

    def end(self) -> None:
        """The last line."""
        self._write("\r" if self._terminal else "", "\n")
        if self.empty:
            sys.stderr.write(f"rows without text, and so without answer: {self.empty:,}\n")

    def _write(self, start: str, end: str) -> None:
        rate = self.rows / max(time.monotonic() - self._started, 1e-9)
        sys.stderr.write(f"{start}{self.rows:,} rows, {rate:,.0f} rows/s{end}")
        sys.stderr.flush()


def label_table(
    run: Path,
    source: Path,
    output: Path | None,
    asked: Sequence[str],
    prefix: str,
    kind: type[Runtime],
) -> None:
    """Write the table `source` with the answers of the run's exported model as columns."""
    from sparsekit.runs.folder import trained_columns
    from sparsekit.runtime.deployment import Deployment, deployment_of
    from sparsekit.runtime.tables.columns import chosen_columns
    from sparsekit.runtime.tables.predict import predict_table

    deployment, trained = Deployment(deployment_of(run), kind), trained_columns(run)

    def choose(columns: Sequence[str]) -> list[str]:
        with reworded(lambda message: f"{source}: {message}"):
            return chosen_columns(columns, asked, trained, deployment.task.pairs)

    progress = Progress()
    predict_table(deployment, source, output, choose, prefix, progress)
    progress.end()


def check_options(
    texts: Sequence[str], columns: Sequence[str], output: Path | None, prefix: str | None
) -> None:
    """Raise UserError for options of files where texts are given."""
    given = {"--column": columns or None, "--output": output, "--prefix": prefix}
    for option, value in given.items():
        if value is not None:
            raise UserError(
                f"{option} belongs to a csv, jsonl or parquet file, not "
                f"{' '.join(texts)[:60]!r}; give such a file, or leave the option out"
            )
