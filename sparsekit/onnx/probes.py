"""Random batches that cover the lengths and the padding that a deployed model meets.

A graph can be right for the short rows of a validation split and wrong for longer texts: attention
in a window of 128 tokens equals full attention up to 64. Texts of a length that no row has, a batch
of one, and padding on either side are as likely in service as the rows that training saw.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from sparsekit.models.loading import embedded_tokens

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Attributes of configs that hold the number of tokens that a token attends to.
_WINDOWS = ("sliding_window", "local_attention", "attention_window", "block_size")
# The length to probe where nothing else says which lengths matter.
_SOME_LENGTH = 40

Batch = dict[str, Tensor]


def input_names(model: PreTrainedModel) -> list[str]:
    """The names of the model's inputs: not every architecture has token types."""
    return [name for name in INPUTS if name in inspect.signature(model.forward).parameters]


def windows(config: PreTrainedConfig) -> list[int]:
    """The sizes of the config's attention windows, in tokens; empty where attention has none."""
    sizes: set[int] = set()
    for name in _WINDOWS:
        value = getattr(config, name, None)
        each = value if isinstance(value, list | tuple) else [value]
        sizes |= {size for size in each if isinstance(size, int) and size > 1}
    return sorted(sizes)


def probe_lengths(config: PreTrainedConfig, longest: int) -> list[int]:
    """The lengths up to `longest` at which an error of the export would show, ascending.

    They are 1, 2, `longest`, and one token less and more than each window.
    """
    lengths = {1, 2, longest}
    for size in windows(config):
        lengths |= {size - 1, size + 1}
    return sorted(length for length in lengths if 1 <= length <= longest)


def beyond_windows(config: PreTrainedConfig, positions: int | None) -> int:
    """A length at which every window of the config has an effect, at most `positions`."""
    length = max([_SOME_LENGTH, *(size + 2 for size in windows(config))])
    return length if positions is None else min(length, positions)


def probes(model: PreTrainedModel, longest: int) -> list[Batch]:
    """Batches of random tokens for `model`, int64 [batch, sequence].

    One row of each of the `probe_lengths`, then rows of three lengths, padded to `longest` on the
    right and on the left. They are the same in every call.
    """
    generator = torch.Generator().manual_seed(0)
    batches = [
        _batch(model, [length], "right", generator)
        for length in probe_lengths(model.config, longest)
    ]
    if longest > 1:
        mixed = [longest, max(1, longest // 2), max(1, longest // 7)]
        batches += [_batch(model, mixed, side, generator) for side in ("right", "left")]
    return batches


def _batch(
    model: PreTrainedModel, lengths: Sequence[int], side: str, generator: torch.Generator
) -> Batch:
    shape, longest = (len(lengths), max(lengths)), max(lengths)
    tokens = embedded_tokens(model)
    ids = torch.randint(0, tokens, shape, generator=generator)
    padding = getattr(model.config, "pad_token_id", None) or 0
    # A text has no padding tokens, by which some heads find its end.
    ids[ids == padding] = (padding + 1) % tokens
    mask = torch.zeros(shape, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, slice(length) if side == "right" else slice(longest - length, longest)] = 1
    ids = torch.where(mask.bool(), ids, padding)
    values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: values[name] for name in input_names(model)}
