"""sparsekit: sparse transfer learning of NLP transformers, from one composed config.

The names of the Python API are imported as they are first used: `import sparsekit` alone loads
neither torch nor transformers.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsekit.errors import suggestion

if TYPE_CHECKING:
    from sparsekit.oneshot.in_memory import prune
    from sparsekit.oneshot.shrink_in_memory import shrink
    from sparsekit.pipeline.exporting import export
    from sparsekit.recipe.recipe import Recipe
    from sparsekit.runtime.pipeline import Pipeline
    from sparsekit.training.arguments import SparseTrainingArguments
    from sparsekit.training.trainer import SparseTrainer

# onnxruntime and the clients of the Hub read these when they are imported, and would otherwise
# send usage data (onnxruntime also keeps a device id and a queue of events in the user's cache).
# A user who sets them decides.
for _variable in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "1")

__all__ = [
    "Pipeline",
    "Recipe",
    "SparseTrainer",
    "SparseTrainingArguments",
    "__version__",
    "export",
    "prune",
    "shrink",
]
__version__ = "0.2.0"

# Public name -> the module that defines it.
_LAZY = {
    "Pipeline": "sparsekit.runtime.pipeline",
    "Recipe": "sparsekit.recipe.recipe",
    "SparseTrainer": "sparsekit.training.trainer",
    "SparseTrainingArguments": "sparsekit.training.arguments",
    "export": "sparsekit.pipeline.exporting",
    "prune": "sparsekit.oneshot.in_memory",
    "shrink": "sparsekit.oneshot.shrink_in_memory",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        hint = suggestion(name, __all__)
        raise AttributeError(f"module 'sparsekit' has no attribute {name!r}{hint}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
