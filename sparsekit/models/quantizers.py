"""The values of a saved model's quantizers, in a file beside its weights.

transformers knows nothing of quantizers: in `model.safetensors` it would warn about each of their
values whenever the model is loaded. Folders that versions before 0.2 saved have them there.
"""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsekit.errors import UserError
from sparsekit.models.hub import QUANTIZERS

WEIGHTS = "model.safetensors"
# In the names of all buffers of quantizers, and of nothing else.
QUANTIZER = "_quantizer."


def separate_quantizers(folder: Path) -> None:
    """Move the quantizers' values out of a weights file in `folder` that was just saved.

    The values of a model that was saved there before are removed, if the new one has none.
    """
    state = load_file(folder / WEIGHTS)
    values = {name: tensor for name, tensor in state.items() if QUANTIZER in name}
    if not values:
        (folder / QUANTIZERS).unlink(missing_ok=True)
        return
    weights = {name: tensor for name, tensor in state.items() if name not in values}
    # The weights last: until then they hold the values too.
    _save(values, folder / QUANTIZERS)
    _save(weights, folder / WEIGHTS)


def saved_state(folder: Path) -> dict[str, Tensor]:
    """The weights and quantizers' values in `folder`, by name.

    Raises UserError where a file cannot be read.
    """
    state: dict[str, Tensor] = {}
    for file in (folder / WEIGHTS, folder / QUANTIZERS):
        if file.name == QUANTIZERS and not file.is_file():
            continue  # a model in float32, or of version 0.1
        try:
            state |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise _unreadable(file, error) from error
    return state


def is_quantized(folder: Path) -> bool:
    """Whether the weights in `folder` were trained with quantizers, whose values lie with them."""
    if (folder / QUANTIZERS).is_file():
        return True
    if not (folder / WEIGHTS).is_file():
        return False
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return any(QUANTIZER in name for name in file.keys())  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise _unreadable(folder / WEIGHTS, error) from error


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"cannot read {file}: {error}; train or save the model again")


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    """Replace `file` at once, so that it is never half a file."""
    unfinished = file.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata={"format": "pt"})
    os.replace(unfinished, file)
