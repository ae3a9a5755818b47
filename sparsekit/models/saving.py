"""Saving a model under the names that its own modules have."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from transformers import PreTrainedModel


@contextlib.contextmanager
def own_names(model: PreTrainedModel) -> Iterator[None]:
    """Let `model.save_pretrained` keep the names and shapes of its parameters within the context.

    transformers otherwise writes those of the checkpoint that the architecture was published with:
    for NomicBERT, GTE and Jina v3 it joins query, key and value, which fails for the scales of
    quantizers, and neither masks nor a resumed run would find their weights. `from_pretrained`
    reads both.
    """
    # An instance attribute: deleting it restores the class's method.
    save = functools.partial(model.save_pretrained, save_original_format=False)
    model.save_pretrained = save  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.save_pretrained
