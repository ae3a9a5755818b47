"""The options of commands that measure a checkpoint on rows of a data file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sparsekit.oneshot.checkpoint import Data

Model = Annotated[str, typer.Argument(help="A run folder, a model folder or a Hub id.")]
TextColumns = Annotated[
    list[str] | None,
    typer.Option(help="Column of the text; twice for pairs. [default: that of the model's task]"),
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of the label. [default: that of the model's task]")
]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Texts are truncated to this many tokens. [default: as in the model's task]"),
]
Seed = Annotated[int, typer.Option(help="Seed for drawing texts.")]


def calibration_data(
    file: Path, text_columns: list[str] | None, label_column: str | None, max_length: int | None
) -> Data:
    """The rows of `file`, read by the options above."""
    from sparsekit.oneshot.checkpoint import Data

    return Data(
        file=file,
        text_columns=text_columns or None,
        label_column=label_column,
        max_length=max_length,
    )
