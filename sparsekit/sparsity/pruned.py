"""Whether a model was pruned. Imports no torch."""

from __future__ import annotations

# Dense models hold a few exact zeros too, in half precision more.
FEW_ZEROS = 0.01


def is_pruned(zeros: float) -> bool:
    """Whether weights, of which the share `zeros` is exactly 0, were pruned.

    >>> is_pruned(0.0004), is_pruned(0.5)
    (False, True)
    """
    return zeros >= FEW_ZEROS
