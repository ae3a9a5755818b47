"""Which layers of a model are pruned."""

from __future__ import annotations

import re

from torch import nn

_IN_A_LAYER_STACK = re.compile(r"\.\d+\.")


def prunable(model: nn.Module) -> dict[str, nn.Linear]:
    """The Linear layers in the stack of transformer layers by name, without pooler and head.

    Sparse checkpoints prune these layers, and `sparsity` in a summary refers to them.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _IN_A_LAYER_STACK.search(name)
    }
