"""Which layers of a model are pruned."""

from __future__ import annotations

import re

from torch import nn

_IN_A_LAYER_STACK = re.compile(r"\.\d+\.")


def nothing_prunable(model: nn.Module) -> str | None:
    """Why no layer of the model can be pruned; None: some can."""
    if prunable(model):
        return None
    others = sorted(
        {
            type(module).__name__
            for name, module in model.named_modules()
            if _IN_A_LAYER_STACK.search(f"{name}.")
            and isinstance(getattr(module, "weight", None), nn.Parameter)
            and module.weight.ndim > 1
        }
    )
    return (
        f"{type(model).__name__} has no Linear layers in a stack of transformer layers, which "
        f"are what is pruned: its layers are of the types {', '.join(others) or 'none'}; choose "
        "another student, or train it dense: recipe=dense student.sparsity=null"
    )


def prunable(model: nn.Module) -> dict[str, nn.Linear]:
    """The Linear layers in the stack of transformer layers by name, without pooler and head.

    Sparse checkpoints prune these layers, and `sparsity` in a summary refers to them.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _IN_A_LAYER_STACK.search(name)
    }
