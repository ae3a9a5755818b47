"""Which files of a run belong to a deployment."""

from __future__ import annotations

import shutil
from pathlib import Path

from sparsekit.runs.folder import RunFolder

# The files of model/ that a runtime needs: no weights, recipe or pickled training arguments.
DEPLOYED = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def source_files(run: RunFolder) -> list[Path]:
    """The files that a deployment was made from and checked against, besides the config."""
    files = [file for folder in (run.model, run.evaluations) for file in folder.glob("*")]
    return [file for file in files if file.is_file()]


def copy_folder(model: Path, folder: Path) -> None:
    """Copy the config and the tokenizer's files, which a runtime needs besides the graph."""
    folder.mkdir()
    for file in sorted(model.iterdir()):
        if file.name in DEPLOYED:
            shutil.copyfile(file, folder / file.name)
