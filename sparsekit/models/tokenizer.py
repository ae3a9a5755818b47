"""A checkpoint's tokenizer, checked: if files are missing, transformers creates an empty one."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sparsekit.errors import UserError, first_line


def load_tokenizer(folder: Path, max_length: int, embeddings: int) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, which truncates at `max_length` tokens.

    embeddings: the number of tokens that the model embeds. Raises UserError if the tokenizer cannot
    be read, has special tokens only, or has more tokens than the model.
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
    if problem := tokenizer_problem(tokenizer, embeddings):
        raise UserError(
            f"the tokenizer in {folder}, {type(tokenizer).__name__}, {problem}; put the "
            "tokenizer.json that the model was trained with beside its weights"
        )
    tokenizer.model_max_length = max_length
    return tokenizer


def tokenizer_problem(tokenizer: PreTrainedTokenizerBase, embeddings: int) -> str | None:
    """Why a tokenizer does not fit a model that embeds so many tokens; None: it fits."""
    if not tokenizer.is_fast:
        return "is not a fast tokenizer, which deployments need"
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        return f"has {len(tokenizer)} special tokens and no words"
    if len(tokenizer) > embeddings:
        return f"has {len(tokenizer)} tokens, but the model embeds {embeddings}"
    if tokenizer.pad_token is None:
        return "has no padding token, which batches need"
    return None
