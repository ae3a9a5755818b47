"""The metadata at the head of a model card, as the Hugging Face Hub reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsekit.errors import printable

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def metadata(
    settings: Mapping[str, Any],
    task: str,
    metrics: Mapping[str, float],
    title: str,
    tags: Sequence[str],
    license_name: str | None,
    directory: Path = Path(),
) -> str:
    """YAML: license, base model, data set and, as the model index, the exported file's metrics.

    What is not known is left out: a base model or data set that is a folder or files of the user's
    own. A license is never guessed: it is that of whoever publishes the model.

    settings: the run's config. task: the Hub's name of it. metrics: of the validation split.
    directory: to which paths in the config are relative.
    """
    data = dataset_name(settings)
    student = (settings.get("student") or {}).get("checkpoint")
    known = {
        "library_name": "onnx",
        "pipeline_tag": task,
        "tags": list(tags),
        "license": license_name,
        "base_model": student if is_hub_id(student, directory) else None,
        "datasets": [data] if is_hub_id(data, directory) else None,
        "model-index": [_results(title, task, data, metrics)] if metrics else None,
    }
    present = {key: value for key, value in known.items() if value is not None}
    return yaml.safe_dump(present, sort_keys=False, allow_unicode=True, width=100).rstrip()


def _results(title: str, task: str, data: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    values = [{"type": name, "value": round(value, 4)} for name, value in metrics.items()]
    return {
        "name": title,
        "results": [
            {
                "task": {"type": task},
                "dataset": {"name": data, "type": data, "split": "validation"},
                "metrics": values,
            }
        ],
    }


def dataset_name(settings: Mapping[str, Any]) -> str:
    """The data set: its Hub id, what makes it, or the name of its training file.

    A path on the machine that trained is of no use to a reader.
    """
    node = settings.get("dataset") or {}
    if isinstance(path := node.get("path"), str):
        return printable(path)
    if isinstance(source := node.get("source"), Mapping):
        return printable(str(source.get("_target_")))
    files = node.get("data_files")
    train = files.get("train") if isinstance(files, Mapping) else files
    return printable(Path(train).name) if isinstance(train, str) else "data of its own"


def is_hub_id(name: object, directory: Path = Path()) -> bool:
    """Whether this names a repository of the Hub, and no folder or file in `directory`.

    >>> is_hub_id("nyu-mll/glue"), is_hub_id("data/train.csv"), is_hub_id("/data/model")
    (True, False, False)
    """
    if not isinstance(name, str) or name.endswith((".csv", ".json", ".jsonl", ".parquet")):
        return False
    return bool(_HUB_ID.fullmatch(name)) and not (directory / name).exists()
