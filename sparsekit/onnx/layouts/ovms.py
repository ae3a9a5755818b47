"""A model repository of OpenVINO Model Server, which reads ONNX as it is.

    repository/config.json            all models of the repository
               NAME/1/model.onnx

Source of the keys: https://docs.openvino.ai/2025/model-server/ovms_docs_parameters.html.
Imports no torch.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from sparsekit.errors import UserError, first_line, parse_json
from sparsekit.onnx.layouts.source import Source
from sparsekit.onnx.layouts.versions import add_version

CONFIG = "config.json"
# What Triton alone has beside the versions of a model.
TRITON = "config.pbtxt"
LIST = "model_config_list"


def write(source: Source, repository: Path) -> Path:
    """Add the model to `repository` and its `config.json`; returns the version's folder.

    Raises UserError for a `config.json` that is not of the server, and for a model of Triton.
    """
    config = _read(repository / CONFIG)
    if (repository / source.name / TRITON).exists():
        raise UserError(
            f"{repository / source.name} is a model of Triton; choose another name with --name, or "
            "another folder with --output"
        )
    version = add_version(source, repository, {})
    # Relative to config.json, so that the repository can be mounted anywhere.
    node = {"config": {"name": source.name, "base_path": source.name}}
    others = [entry for entry in config[LIST] if _name(entry) != source.name]
    kept = [entry for entry in config[LIST] if _name(entry) == source.name]
    # What the user has set for the model since stays.
    config[LIST] = [*others, *(kept or [node])]
    _replace(repository / CONFIG, json.dumps(config, indent=2) + "\n")
    return version


def _name(entry: Any) -> Any:
    return entry["config"].get("name")


def _read(file: Path) -> dict[str, Any]:
    """The server's config; one without models where there is none."""
    if not file.exists():
        return {LIST: []}
    try:
        config = parse_json(file.read_bytes())
        entries = config[LIST]
        if not all(isinstance(entry["config"], dict) for entry in entries):
            raise TypeError("an entry has no config")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not a config of OpenVINO Model Server ({first_line(error)}); choose "
            "another folder with --output"
        ) from error
    return dict(config)


def _replace(file: Path, text: str) -> None:
    """Write the file at once: the server reads it again whenever it changes."""
    with tempfile.TemporaryDirectory(prefix=".new-", dir=file.parent) as scratch:
        new = Path(scratch) / file.name
        new.write_text(text, encoding="utf-8")
        new.replace(file)
