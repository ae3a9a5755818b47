"""A loss that is not finite: where training diverged, on which rows, and from where to go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from sparsekit.errors import UserError
from sparsekit.training.checkpoints import newest_whole

# Row numbers in the message.
SHOWN = 16
# The inputs by which the rows of a batch are found.
TOKENS = ("input_ids", "attention_mask")


def losses_per_look(device: torch.device) -> int:
    """How many losses are looked at together: a look waits until an accelerator has computed them,
    which otherwise works while Python prepares the next steps."""
    return 1 if device.type == "cpu" else 32


class Losses:
    """The losses of the last batches, which nobody has looked at yet, and their batches."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, int, Mapping[str, Any]]] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, loss: Tensor, step: int, inputs: Mapping[str, Any]) -> None:
        """Keep a scalar `loss`, without waiting for its value; see `divergence` for the others."""
        # Not the rest: a teacher's outputs may be large.
        tokens = {name: inputs[name] for name in TOKENS if name in inputs}
        self._waiting.append((loss, step, tokens))

    def first_not_finite(self) -> tuple[Tensor, int, Mapping[str, Any]] | None:
        """The first loss that is NaN or infinite, its step, and its tokens; forgets all losses."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return None
        finite = torch.isfinite(torch.stack([loss for loss, _, _ in waiting])).tolist()
        return None if all(finite) else waiting[finite.index(False)]


def divergence(
    loss: Tensor, step: int, inputs: Mapping[str, Any], rows: Dataset | None, checkpoints: Path
) -> UserError:
    """The error for a batch `inputs` whose loss is NaN or infinite.

    step: the optimizer step that the batch belongs to, from 1.
    rows: the training rows, among which those of the batch are looked up by their tokens; None
        where they were streamed, and are known by their tokens alone.
    """
    if rows is None:
        shown = f"with the tokens {inputs['input_ids'].tolist()}"
    else:
        found = rows_of(inputs, rows)
        shown = ", ".join(map(str, found[:SHOWN])) + (", ..." if len(found) > SHOWN else "")
        shown += " (from 0)"
    newest = newest_whole(checkpoints)
    good = "there is no whole checkpoint" if newest is None else f"the last checkpoint is {newest}"
    return UserError(
        f"training diverged: the loss is {float(loss)} in step {step}, on the training rows "
        f"{shown}; {good}; lower recipe.init_lr, train in fp32 "
        "(training.precision=fp32), or look at these rows"
    )


def rows_of(inputs: Mapping[str, Any], rows: Dataset) -> list[int]:
    """The numbers of the rows of a batch, without its padding; of equal rows the first."""
    # A collator of the user's may leave out the mask of batches without padding.
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    ids, masks = ids.tolist(), (torch.ones_like(ids) if mask is None else mask).tolist()
    wanted = {
        tuple(token for token, real in zip(row, mask, strict=True) if real)
        for row, mask in zip(ids, masks, strict=True)
    }
    found = []
    for number, tokens in enumerate(rows.with_format(None)["input_ids"]):
        if tuple(tokens) in wanted:
            wanted.remove(tuple(tokens))
            found.append(number)
            if not wanted:
                break
    return found
