"""The last layer's second half, for the only token that a classifier reads.

BERT and its kin classify by the first token's last hidden state. What the last layer makes of the
other tokens after its attention is computed, and then dropped, with a gradient of zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

# Models whose head for sequences reads the first token, and whose layers are built alike.
MODEL_TYPES = ("bert", "camembert", "electra", "roberta", "xlm-roberta")


def only_first_token(
    model: PreTrainedModel, active: Callable[[], bool] = lambda: True
) -> RemovableHandle | None:
    """While `active()`, let the last layer of a classifier go on with its first token only.

    Logits, loss and gradients stay what they are; `last_hidden_state` has the length 1. Of the
    products of a layer it saves three quarters. What is returned ends it; None for models that are
    built in another way.
    """
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return None
    # A layer that goes on in chunks of several tokens takes no single one.
    if model.config.model_type not in MODEL_TYPES or model.config.chunk_size_feed_forward > 1:
        return None

    def shorten(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        return tuple(states[:, :1] for states in inputs) if active() else None

    last = model.config.num_hidden_layers - 1
    after_attention = model.base_model.get_submodule(f"encoder.layer.{last}.attention.output")
    return after_attention.register_forward_pre_hook(shorten)
