"""Which layers of a model are pruned."""

from __future__ import annotations

import re

from torch import nn

_IN_A_LAYER_STACK = re.compile(r"\.\d+\.")


def prunable(model: nn.Module) -> dict[str, nn.Linear]:
    """The Linear layers of the stack of transformer layers, by name: not pooler, not head.

    That is what sparse checkpoints prune, and what `sparsity` in a summary is about.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _IN_A_LAYER_STACK.search(name)
    }
