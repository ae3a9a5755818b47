"""Whether Fisher information fits into memory, before it is allocated.

Linux grants memory that it does not have and ends the process that uses it, without a word.
"""

from __future__ import annotations

from sparsekit.errors import UserError
from sparsekit.system import available_memory

_GB = 1e9
# Of each weight, where all layers are ranked together: their scores, a copy in which `kthvalue`
# looks for the threshold, and its indices.
RANKING = 20


def check_memory(weights: int, needed: int, fix: str) -> None:
    """Raise UserError, ending in `fix`, if `needed` bytes for so many weights are not available."""
    available = available_memory()
    if available is not None and needed > available:
        raise UserError(
            f"the Fisher information of {weights:,} weights takes {needed / _GB:.1f} GB of memory, "
            f"of which {available / _GB:.1f} are available: {fix}"
        )
