"""How a checkpoint of sentence-transformers makes one vector of those of its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsekit.errors import UserError, first_line, parse_json

# The list of what sentence-transformers computes one after the other; in its folders alone.
MODULES = "modules.json"
# Its names of the ways to pool that sparsekit has too. Vectors of length 1 are the same whether a
# sum is divided by the number of tokens or by its square root.
_OURS = {"mean": "mean", "mean_sqrt_len_tokens": "mean", "cls": "first"}
# As older versions write them: `pooling_mode_<key>: true`.
_OLDER = {"mean_tokens": "mean", "cls_token": "cls"}
# What changes a pooled vector in nothing but its length.
_NEUTRAL = ("Normalize", "Dropout")


def pooling_of(folder: Path) -> str | None:
    """`mean` or `first`; None where the folder says nothing of it.

    Raises UserError for vectors that are made in another way, and for files that cannot be read.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = [(_name(module), str(module.get("path", ""))) for module in _read(folder / MODULES)]
    kinds = [kind for kind, _ in modules]
    if "Pooling" not in kinds:
        return None
    place = kinds.index("Pooling")
    if after := [kind for kind in kinds[place + 1 :] if kind not in _NEUTRAL]:
        raise UserError(
            f"{folder} computes its vectors by {' and '.join(after)} after pooling, which "
            "sparsekit cannot compute, so its vectors would differ; choose a checkpoint without"
        )
    file = folder / modules[place][1] / "config.json"
    if not file.is_file():
        return None
    config = _read(file)
    if len(config) != 1:
        raise UserError(f"{file} holds something else than one JSON object; get the file again")
    modes = _modes(config[0])
    if len(modes) != 1 or modes[0] not in _OURS:
        raise UserError(
            f"{file} pools tokens by {' and '.join(modes) or 'nothing known'}, and sparsekit takes "
            "their mean or the first one (cls); choose a checkpoint that does so"
        )
    return _OURS[modes[0]]


def _modes(config: dict[str, Any]) -> list[str]:
    """The ways in which a pooling module pools; it concatenates the vectors of several."""
    if named := config.get("pooling_mode"):
        return [str(mode) for mode in (named if isinstance(named, list) else [named])]
    marked = [str(key) for key, value in config.items() if value is True]
    keys = [key.removeprefix("pooling_mode_") for key in marked if key.startswith("pooling_mode_")]
    return [_OLDER.get(key, key) for key in keys]


def _name(module: dict[str, Any]) -> str:
    """The name of a module's class, without that of its package."""
    return str(module.get("type", "")).rpartition(".")[2]


def _read(file: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file that holds one or a list of them."""
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {first_line(error)}") from error
    objects = found if isinstance(found, list) else [found]
    if not all(isinstance(each, dict) for each in objects):
        raise UserError(f"{file} holds something else than JSON objects; get the file again")
    return objects
