"""Checkpoints as local folders: a folder is used directly, a Hub id is downloaded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from sparsekit.config.build import build
from sparsekit.errors import UserError, first_line, parse_json
from sparsekit.hub.connection import NO_ANSWER, OTHER_FORMAT, limited_waiting, reason
from sparsekit.sparseml import zoo
from sparsekit.system import expanded

# Scales and zero points beside the weights of a model that sparsekit quantized.
QUANTIZERS = "quantizers.safetensors"
# Top-level files only: some repositories have ONNX or TensorFlow copies in subfolders.
_SMALL_FILES = ["*.json", "*.txt", "*.model"]


def fetch(
    checkpoint: str | dict[str, Any],
    revision: str | None = None,
    *,
    weights: bool = True,
    key: str | None = None,
) -> Path:
    """The folder of a checkpoint; without `weights` only its config and tokenizer are downloaded.

    `checkpoint` is a folder, a Hub id, a SparseZoo stub (`zoo:nlp/...`), or a node whose `_target_`
    creates a folder. Loading always from a folder keeps transformers from starting its background
    conversion of repositories that have only a `pytorch_model.bin`. Raises UserError that names the
    id and the local alternative, with the key of the config that set it, if one did.
    """
    if isinstance(checkpoint, dict):
        return Path(build(checkpoint, "checkpoint", trusted=True))
    if checkpoint.startswith("zoo:"):
        known = zoo.hub_id(checkpoint)
        if known is None:
            return zoo.download(checkpoint)
        return fetch(known, revision, weights=weights, key=key)
    folder = expanded(checkpoint)
    if folder.is_dir():
        _refuse_adapter(folder, checkpoint)
        if not (folder / "config.json").is_file():
            inner = folder / "model"
            fix = f"; give {inner}" if (inner / "config.json").is_file() else ""
            raise UserError(f"{folder} is not a checkpoint: it holds no config.json{fix}")
        return folder
    if checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1:
        raise UserError(f"there is no checkpoint folder {checkpoint}")
    try:
        wanted = [*_SMALL_FILES, "*.safetensors"] if weights else _SMALL_FILES
        with limited_waiting():
            stored = _download(checkpoint, revision, wanted)
            _refuse_adapter(stored, checkpoint)
            if weights and not any(stored.glob("*.safetensors")):
                stored = _download(checkpoint, revision, ["pytorch_model*.bin"])
            if (stored / "modules.json").is_file():
                # What sentence-transformers computes after the model, such as pooling.
                _download(checkpoint, revision, ["[1-9]_*/*"], nested=True)
        return stored
    except HFValidationError as error:
        raise UserError(
            f"{checkpoint!r} is neither a local folder nor a Hub id; check its spelling"
        ) from error
    except (OSError, *NO_ANSWER) as error:
        why = reason(error) if isinstance(error, OSError) else OTHER_FORMAT
        raise UserError(
            f"there is no folder {checkpoint!r}, and the Hub gives no model of that id: "
            f"{why}; give a local folder with its files instead"
            f"{'' if key is None else f', as in {key}=FOLDER'}"
        ) from error


def fetch_model(model: str, *, weights: bool = True) -> Path:
    """The folder of a model as a user names it: of a run folder its `model/`, else see `fetch`."""
    inner = expanded(model) / "model"
    return fetch(str(inner) if inner.is_dir() else model, weights=weights)


def _refuse_adapter(folder: Path, checkpoint: str) -> None:
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{checkpoint} is an adapter (LoRA or another of PEFT's), not a whole model; merge it "
            "into its base with peft's merge_and_unload(), save_pretrained() the result with its "
            "tokenizer, and give that folder"
        )


def weight_files(folder: Path) -> list[Path]:
    """The weight files of `folder` that transformers loads, safetensors before pickled ones.

    One file comes before shards, and shards are those that their index names: a folder may hold
    others of an earlier save.
    """
    for single in (folder / "model.safetensors", folder / "pytorch_model.bin"):
        if single.is_file():
            return [single]
        index = folder / f"{single.name}.index.json"
        if index.is_file():
            return _shards(index)
    raise UserError(f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin")


def _shards(index: Path) -> list[Path]:
    """The files that an index of shards names."""
    try:
        names = set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"cannot read {index}: {first_line(error)}; the file may be cut short: get it again"
        ) from error
    files = [index.parent / str(name) for name in sorted(names)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(
            f"{index} names {', '.join(missing)}, which {index.parent} lacks; get the files again"
        )
    return files


def _download(
    checkpoint: str, revision: str | None, patterns: list[str], *, nested: bool = False
) -> Path:
    """Download the files that match one of `patterns`, those in subfolders only with `nested`."""
    ignored = None if nested else ["*/*"]
    return Path(
        snapshot_download(
            checkpoint, revision=revision, allow_patterns=patterns, ignore_patterns=ignored
        )
    )
