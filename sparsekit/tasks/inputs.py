"""What a model reads of the inputs that a tokenizer gives."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedConfig

TYPES = "token_type_ids"
# Architectures whose head reads the last position, whatever the mask says.
_READS_LAST_POSITION = ("xlnet",)


def reads_types(config: PreTrainedConfig | None) -> bool:
    """Whether the model tells the second text of a pair by its type; a RoBERTa has one type."""
    return getattr(config, "type_vocab_size", None) != 1


def padding_side(config: PreTrainedConfig) -> str:
    """The side on which batches of a model are padded, "left" or "right"."""
    return "left" if config.model_type in _READS_LAST_POSITION else "right"


def inputs_of(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of `names` that the model takes, without types where it has only one.

    Models of one vocabulary may read different inputs: DistilBERT takes no types, and a BERT of one
    type has no embedding for the second text of a pair.
    """
    taken = set(inspect.signature(model.forward).parameters)
    if not reads_types(getattr(model, "config", None)):
        taken.discard(TYPES)
    return [name for name in names if name in taken]
