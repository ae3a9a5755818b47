"""Error messages for callers of the Python API, who set arguments instead of config keys."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager

from sparsekit.errors import reworded

# What messages call a setting -> what the caller of SparseTrainer, prune or export calls it. Each
# begins a word that is not quoted: quoted words are names that the user chose.
_ARGUMENTS = [
    (r"teacher=checkpoint teacher\.checkpoint=", "teacher="),
    (r"student\.sparsity=([\d.]+)", r"sparsekit.prune(model, \1)"),
    (r"teacher\.checkpoint\b", "teacher"),
    (r"training\.", "args."),
    (r"dataset\.(\w+)\b(?!\.)", r"\1"),
    (r"export\.(\w+)", r"\1"),
    (r"hydra\.run\.dir\b", "output_dir"),
    (r"recipe\.(?:variables\.)?(\w+)=([^\s,;()]+)", r'recipe_args={"\1": \2}'),
    (r"(recipe|teacher)=(?!none\b|FOLDER\b)(\w+)", r'\1="\2"'),
]
_VALUES = {"true": "True", "false": "False", "null": "None", "none": "None"}


def as_arguments(message: str) -> str:
    """`message`, written with keys and values of the config, as arguments of the Python API.

    >>> as_arguments("set training.sparse_products=auto, or recipe.qat_epochs=1")
    'set args.sparse_products=auto, or recipe_args={"qat_epochs": 1}'
    """
    for pattern, replacement in _ARGUMENTS:
        message = re.sub(rf"(?<![\w./'\"]){pattern}", replacement, message)
    return re.sub(r"=(true|false|null|none)\b", lambda match: f"={_VALUES[match[1]]}", message)


def naming_arguments() -> AbstractContextManager[None]:
    """A context in which a UserError names arguments of the Python API instead of config keys."""
    return reworded(as_arguments)
