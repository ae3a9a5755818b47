"""Resolves SparseZoo stubs (`zoo:nlp/...`) to models on the Hub, or downloads them.

The zoo was closed in 2025. Its client still runs in the peer environment, and is called for models
that are not on the Hub.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from sparsekit.errors import UserError
from sparsekit.sparseml.peer import peer_problem, peer_python

SECONDS = 600
_UPSTREAM = "masked_language_modeling/obert-base/pytorch/huggingface/wikipedia_bookcorpus"
_DENSE = "masked_language_modeling/bert-base/pytorch/huggingface/wikipedia_bookcorpus"
# The same weights, published by the same authors.
ON_THE_HUB = {
    f"{_UPSTREAM}/base-none": "google-bert/bert-base-uncased",
    f"{_DENSE}/base-none": "google-bert/bert-base-uncased",
    f"{_UPSTREAM}/pruned90-none": "neuralmagic/oBERT-12-upstream-pruned-unstructured-90",
    f"{_UPSTREAM}/pruned97-none": "neuralmagic/oBERT-12-upstream-pruned-unstructured-97",
}
# Sparse transfer in 13 epochs, the last 5 quantized.
_RECIPES = {
    r"sentiment_analysis/obert-base/.*/pruned90_quant-none": "pruned90_quant",
    r"sentiment_analysis/obert-base/.*/pruned90-none": "pruned90",
}
_CLIENT = """
import json, sys
from sparsezoo import Model
print(json.dumps(str(Model(sys.argv[1]).training.default.path)))
"""


def hub_id(stub: str) -> str | None:
    """The id on the Hub of a stub's model; None for an unknown stub.

    >>> hub_id("zoo:nlp/" + _UPSTREAM + "/pruned90-none")
    'neuralmagic/oBERT-12-upstream-pruned-unstructured-90'
    """
    return ON_THE_HUB.get(_name(stub))


def shipped_recipe(stub: str) -> str | None:
    """The name of our own recipe that is equivalent to the stub's; None without one."""
    name = _name(stub)
    return next((own for pattern, own in _RECIPES.items() if re.fullmatch(pattern, name)), None)


def download(stub: str) -> Path:
    """The folder of training files that SparseZoo's client downloads for a stub.

    Raises UserError with the alternative where the client is missing or fails.
    """
    alternative = (
        "known stubs are "
        + ", ".join(f"zoo:nlp/{name}" for name in ON_THE_HUB)
        + "; otherwise give a Hub id (RedHatAI and neuralmagic have SparseZoo's models) or a "
        "folder: student.checkpoint=neuralmagic/oBERT-12-upstream-pruned-unstructured-90"
    )
    python = peer_python()
    if python is None:
        raise UserError(
            f"{stub} is not a known stub, and SparseZoo's client is not installed: "
            f"{peer_problem('sparsezoo')}; {alternative}"
        )
    command = [str(python), "-I", "-c", _CLIENT, stub]
    environment = os.environ | {"NM_DISABLE_ANALYTICS": "True"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=environment
        )
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
    except subprocess.TimeoutExpired:
        done, reason = None, f"no answer within {SECONDS} s"
    except OSError as error:
        done, reason = None, str(error)
    if done is not None and done.returncode == 0:
        try:
            return Path(json.loads(done.stdout.splitlines()[-1]))
        except (IndexError, ValueError, TypeError):
            reason = "it named no folder"
    raise UserError(f"SparseZoo's client cannot download {stub}: {reason}; {alternative}")


def _name(stub: str) -> str:
    return stub.removeprefix("zoo:").removeprefix("nlp/").partition("?")[0].rstrip("/")
