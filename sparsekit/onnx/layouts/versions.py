"""A model in a repository of numbered versions, as Triton and OpenVINO Model Server read it.

    repository/NAME/1/model.onnx
                    2/model.onnx
                    tokenizer.json ...

Both servers load the highest version, and may look for new ones while they run, so that a version
appears complete or not at all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sparsekit.onnx.files import DEPLOYED
from sparsekit.onnx.layouts.source import MODEL, Source
from sparsekit.runtime.tasks.file import FILE as TASK

# What a client needs to turn texts into inputs, and outputs into answers; servers ignore them.
_FOR_CLIENTS = (*DEPLOYED, TASK)


def add_version(source: Source, repository: Path, texts: Mapping[str, str]) -> Path:
    """Add the graph as the model's next version; returns the folder of the version.

    texts: further files of the model's folder, by name. They and the tokenizer's files replace
        those of the version before.
    """
    model = repository / source.name
    model.mkdir(parents=True, exist_ok=True)
    version = model / str(1 + max(_versions(model), default=0))
    with tempfile.TemporaryDirectory(prefix=".new-", dir=repository) as scratch:
        new = Path(scratch)
        for name in _FOR_CLIENTS:
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, new / name)
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
        for file in new.iterdir():
            file.replace(model / file.name)
        (new / "version").mkdir()
        shutil.copyfile(source.graph, new / "version" / MODEL)
        (new / "version").rename(version)
    return version


def _versions(model: Path) -> list[int]:
    return [int(entry.name) for entry in model.iterdir() if entry.name.isdecimal()]
