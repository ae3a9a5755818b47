"""A checkpoint's tokenizer, checked: if files are missing, transformers creates an empty one."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.errors import UserError, first_line
from sparsekit.tasks.inputs import TYPES, padding_side, reads_types

log = logging.getLogger(__name__)

# Architectures whose positions start after the id of the padding token.
COUNTED_FROM_PADDING = (
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)


def load_tokenizer(
    folder: Path, config: PreTrainedConfig, max_length: int, embeddings: int
) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, which truncates at `max_length` tokens.

    config: the model's; embeddings: the number of tokens that the model embeds. Raises UserError if
    the tokenizer cannot be read, has special tokens only, or has more tokens than the model.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
    except (ValueError, OSError, TypeError, AttributeError) as error:
        raise UserError(
            f"cannot read the tokenizer in {folder}: {first_line(error)}; put the tokenizer.json "
            "that the model was trained with beside its weights"
        ) from error
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        log.warning(
            "the tokenizer in %s has no padding token: its end token %s is used, as the attention "
            "mask hides it",
            *(folder, tokenizer.eos_token),
        )
        tokenizer.pad_token = tokenizer.eos_token
    if problem := tokenizer_problem(tokenizer, embeddings):
        raise UserError(
            f"the tokenizer in {folder}, {type(tokenizer).__name__}, {problem}; put the "
            "tokenizer.json that the model was trained with beside its weights"
        )
    tokenizer.model_max_length = max_length
    leave_out_types(tokenizer, config)
    return tokenizer


def leave_out_types(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Let `tokenizer` give no token types to a model that has only one, or where it gives none.

    A RoBERTa has one type, and another model's tokenizer may give the second text of a pair type 1.
    The names of the inputs are saved with the tokenizer, so that a deployment reads the same
    inputs as training did.
    """
    names = list(tokenizer.model_input_names)
    if not reads_types(config):
        names = [name for name in names if name != TYPES]
    if TYPES not in names:
        tokenizer.model_input_names = names
        tokenizer.init_kwargs["model_input_names"] = names


def tokenizer_problem(tokenizer: PreTrainedTokenizerBase, embeddings: int) -> str | None:
    """Why a tokenizer does not fit a model with that many token embeddings; None if it fits."""
    if not tokenizer.is_fast:
        return "is not a fast tokenizer, which deployments need"
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        return f"has {len(tokenizer)} special tokens and no words"
    if len(tokenizer) > embeddings:
        return f"has {len(tokenizer)} tokens, but the model embeds {embeddings}"
    if tokenizer.pad_token is None:
        return "has no padding token, which batches need"
    return None


def pad_as_expected(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Let `tokenizer` pad as `model` expects, whatever its files say.

    Batches are padded on the right, so that absolute positions count from the text's first token
    and an answer does not depend on the other rows of its batch. The model gets the tokenizer's
    padding token, by which heads on the last token find it.
    """
    tokenizer.padding_side = padding_side(model.config)
    config = model.config
    if config.model_type not in COUNTED_FROM_PADDING:
        config.pad_token_id = tokenizer.pad_token_id
