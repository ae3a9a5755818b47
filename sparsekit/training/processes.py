"""Several processes train as one would on their batches together: shares of rows, one padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from sparsekit.data.collator import IGNORED
from sparsekit.modifiers.processes import several, shared_sum
from sparsekit.sparsity.items import labels_per_token

T = TypeVar("T")


class SharedBatches(Sampler[list[int]]):
    """The rows of process `process` in each batch that `processes` processes train on together.

    sampler: the rows of an epoch, in an order that is the same in every process.
    batch_size: rows of one process.

    The rows of a last, smaller batch are dealt out evenly too. Where it has fewer rows than there
    are processes, some rows are used twice, because every process must take part in every step.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        batch_size: int,
        processes: int,
        process: int,
        drop_last: bool,
    ) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        self._processes, self._process = processes, process

    def __iter__(self) -> Iterator[list[int]]:
        rows, size = list(self.sampler), self.batch_size * self._processes
        for start in range(0, len(self) * size, size):
            batch = rows[start : start + size]
            # Every n-th row: where rows are sorted by length, all processes get equally long ones.
            yield batch[self._process :: self._processes] or [batch[self._process % len(batch)]]

    def __len__(self) -> int:
        rows, size = len(self.sampler), self.batch_size * self._processes  # type: ignore[arg-type]
        return rows // size if self.drop_last else -(-rows // size)


def from_first(value: T) -> T:
    """What the first process has as `value`, in every process."""
    if not several():
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


@contextmanager
def all_trainable(model: nn.Module) -> Iterator[None]:
    """A context in which every parameter of `model` requires a gradient."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def leave() -> None:
    """Stop communicating with the other processes, before this one exits.

    Otherwise threads of gloo may still run while the interpreter ends, and abort it.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def loss_weight(
    items: int | Tensor, step_items: int | Tensor, batches: int, device: torch.device
) -> Tensor:
    """The factor that makes the mean of all losses of a step the mean over all their items.

    items: the rows, or labelled tokens, of a batch of this process; step_items: of all its batches
    of the step, of which there are `batches`. Without any items in all processes it is 0.
    """
    counted = torch.as_tensor(items, dtype=torch.float32, device=device)
    total = shared_sum(torch.as_tensor(step_items, dtype=torch.float32, device=device))
    return counted * (dist.get_world_size() * batches) / total.clamp(min=1)


def same_length(inputs: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """`inputs`, and labels of tokens, padded to the longest row of all processes.

    Quantizers observe padding too, so it must not depend on how rows are dealt out.
    """
    tokens = inputs["input_ids"]
    longest = torch.tensor(tokens.shape[1], device=tokens.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    added = int(longest) - tokens.shape[1]
    fill = {
        "input_ids": tokenizer.pad_token_id,
        "token_type_ids": tokenizer.pad_token_type_id,
        "attention_mask": 0,
    }
    if labels_per_token(inputs):
        fill["labels"] = IGNORED
    widths = (added, 0) if tokenizer.padding_side == "left" else (0, added)
    return {
        name: F.pad(value, widths, value=fill[name]) if name in fill else value
        for name, value in inputs.items()
    }
