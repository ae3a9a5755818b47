"""Which files of a run make a deployment."""

from __future__ import annotations

import shutil
from pathlib import Path

from sparsekit.runs.folder import RunFolder

# What a runtime needs of model/; weights, recipe and pickled training arguments stay there.
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


def kept_files(run: RunFolder) -> list[Path]:
    """What a deployment was made from and checked against, beside the config."""
    files = [file for folder in (run.model, run.evaluations) for file in folder.glob("*")]
    return [file for file in files if file.is_file()]


def copy_folder(model: Path, folder: Path) -> None:
    """Copy the config and the tokenizer's files, all that a runtime needs beside the graph."""
    folder.mkdir()
    for file in sorted(model.iterdir()):
        if file.name in DEPLOYED:
            shutil.copyfile(file, folder / file.name)
