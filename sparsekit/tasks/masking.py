"""Which tokens of a text are hidden from a masked language model, and by what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from sparsekit.data.collator import IGNORED
from sparsekit.errors import UserError

# Of hidden tokens (Devlin et al., 2019): the share that becomes the mask token, and the share of
# the rest that becomes a random token; others stay, so that all tokens must be understood.
MASKED, RANDOM = 0.8, 0.5


def check_mask_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError for a tokenizer without a token that hides others."""
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"the tokenizer, a {type(tokenizer).__name__}, has no mask token, which hides the "
            "words to predict; choose a student pretrained for masked language modeling"
        )


def hide(
    ids: Sequence[int],
    words: Sequence[int | None] | None,
    tokenizer: PreTrainedTokenizerBase,
    probability: float,
    generator: np.random.Generator,
) -> tuple[list[int], list[int]]:
    """The tokens with some of them hidden, and their labels: the true tokens, IGNORED elsewhere.

    Args:
        ids: the tokens of a text.
        words: the number of the word of each token, whose tokens are hidden together; None: each
            token is hidden by itself.
        tokenizer: the tokenizer of the tokens. Its special tokens are never hidden.
        probability: the share of the tokens to hide; at least one is.
        generator: what draws.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    groups: dict[int, list[int]] = {}
    for position, token in enumerate(ids):
        if token not in special:
            word = words[position] if words is not None else position
            groups.setdefault(position if word is None else word, []).append(position)
    target = max(1, round(probability * sum(map(len, groups.values()))))
    hidden: list[int] = []
    order: npt.NDArray[np.intp] = generator.permutation(len(groups))
    each = list(groups.values())
    for group in order:
        if len(hidden) >= target:
            break
        hidden += each[group]
    found, labels = list(ids), [IGNORED] * len(ids)
    for position in hidden:
        labels[position] = ids[position]
        draw = generator.random(2)
        if draw[0] < MASKED:
            assert tokenizer.mask_token_id is not None
            found[position] = tokenizer.mask_token_id
        elif draw[1] < RANDOM:
            found[position] = int(generator.integers(tokenizer.vocab_size))
    return found, labels
