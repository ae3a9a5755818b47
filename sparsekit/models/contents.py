"""What tells models apart whose name is the same: the content of folders, and weights in memory."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsekit.cache import content_hash, file_hash
from sparsekit.errors import UserError
from sparsekit.models.hub import weight_files
from sparsekit.sparsity.prunable import prunable
from sparsekit.system import expanded

# Where a config names models: a Hub id or a folder, or a list of them.
_NAMED = (
    ("student", "checkpoint"),
    ("teacher", "checkpoint"),
    ("teacher", "base"),
    ("dataset", "augment", "masked_lm"),
)


def weights_hash(folder: Path) -> str:
    """A hash of the config and weights in `folder`."""
    return content_hash(map(_file_hash, [folder / "config.json", *weight_files(folder)]))


def models_hash(values: Mapping[str, Any]) -> str | None:
    """A hash of the local folders that a config names as models; None where it names none.

    A folder without weights counts as empty: loading it raises the error that names it.
    """
    parts = []
    for folder in _folders(values):
        try:
            parts.append(weights_hash(folder))
        except (UserError, OSError):
            parts.append("")
    return content_hash(parts) if parts else None


def tensors_hash(model: PreTrainedModel) -> dict[str, str]:
    """Hashes of the weights of a model in memory: of its prunable layers, and of all others.

    The others may include a new head, which is random.
    """
    layers = {f"{name}.weight" for name in prunable(model)}
    state = model.state_dict()
    kinds = {"layers": layers, "others": state.keys() - layers}
    return {kind: content_hash(_parts(state, sorted(names))) for kind, names in kinds.items()}


def _folders(values: Mapping[str, Any]) -> Iterator[Path]:
    for keys in _NAMED:
        node: Any = values
        for key in keys:
            node = node.get(key) if isinstance(node, Mapping) else None
        for name in node if isinstance(node, list) else [node]:
            if isinstance(name, str) and (folder := expanded(name)).is_dir():
                yield folder


def _parts(state: Mapping[str, Tensor], names: list[str]) -> Iterator[str | bytes]:
    for name in names:
        tensor = state[name].detach().cpu().contiguous()
        yield f"{name} {tensor.dtype} {list(tensor.shape)}"
        # NumPy has no bfloat16.
        yield tensor.flatten().view(torch.uint8).numpy().tobytes()


def _file_hash(path: Path) -> str:
    found = path.stat()
    # No program can set ctime back, as it can the time of a file's last change.
    return _known_hash(path.resolve(), found.st_ino, found.st_size, found.st_ctime_ns)


@functools.cache
def _known_hash(path: Path, inode: int, size: int, changed: int) -> str:
    # The jobs of a sweep share their model, and a run asks for it several times.
    return file_hash(path)
