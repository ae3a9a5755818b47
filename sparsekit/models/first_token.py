"""A last layer that computes its feed-forward part for the first token only.

BERT and similar models classify by the last hidden state of the first token. What the last layer
computes for the other tokens after its attention is discarded, and has a gradient of zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

# Models whose classification head reads the first token and whose layers have this structure.
MODEL_TYPES = ("bert", "camembert", "electra", "roberta", "xlm-roberta")


def only_first_token(
    model: PreTrainedModel, active: Callable[[], bool] = lambda: True
) -> RemovableHandle | None:
    """While `active()`, reduce the last layer to the first token after attention.

    Only for a task that reads this token alone (`Task.first_token`): its outputs, loss and
    gradients do not change; `last_hidden_state` has length 1. It saves three
    quarters of the matmuls of that layer. Returns a handle that undoes it, or None for models of
    another structure.
    """
    # A feed-forward layer in chunks of several tokens does not accept a single token.
    if model.config.model_type not in MODEL_TYPES or model.config.chunk_size_feed_forward > 1:
        return None

    def shorten(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        return tuple(states[:, :1] for states in inputs) if active() else None

    last = model.config.num_hidden_layers - 1
    after_attention = model.base_model.get_submodule(f"encoder.layer.{last}.attention.output")
    return after_attention.register_forward_pre_hook(shorten)
