"""Names of what modifiers add to a model, which several modifiers of one class must not share."""

from __future__ import annotations

from itertools import count

from torch import nn


def unused_name(module: nn.Module, name: str) -> str:
    """`name`, or where `module` has it already the first of name_2, name_3, ... that it has not.

    >>> unused_name(nn.Linear(2, 2), "weight"), unused_name(nn.Linear(2, 2), "scores")
    ('weight_2', 'scores')
    """
    if not hasattr(module, name):
        return name
    numbered = (f"{name}_{number}" for number in count(2))
    return next(one for one in numbered if not hasattr(module, one))
