"""The tokenizer of a page: BERT's, described so that page/tokenizer.js need not read its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sparsekit.errors import UserError
from sparsekit.runtime.encoder import read_json
from sparsekit.web.description import refused
from sparsekit.web.packed import Tensors


def describe_tokenizer(folder: Path, tensors: Tensors) -> dict[str, Any]:
    """The part of the header that describes the tokenizer in a deployment folder.

    The vocabulary becomes a tensor of text, a token a line in the order of the ids. Raises
    UserError for a tokenizer that the page does not have.
    """
    description = read_json(folder / "tokenizer.json")
    try:
        found = _described(description, tensors)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"cannot read {folder / 'tokenizer.json'}: {type(error).__name__}: {error}; export the "
            "run again: sparsekit export RUN"
        ) from error
    settings = read_json(folder / "tokenizer_config.json")
    if settings.get("truncation_side", "right") != "right":
        raise refused("its tokenizer cuts long texts on the left")
    return found | _template(folder)


def _described(tokenizer: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    normalizer, model = tokenizer["normalizer"] or {}, tokenizer["model"]
    splitter = tokenizer["pre_tokenizer"] or {}
    kinds = {
        "normalizer": (normalizer.get("type"), "BertNormalizer"),
        "pre-tokenizer": (splitter.get("type"), "BertPreTokenizer"),
        "model": (model.get("type"), "WordPiece"),
    }
    for part, (kind, expected) in kinds.items():
        if kind != expected:
            raise refused(f"the {part} of its tokenizer is {kind}, not {expected}")
    ids: dict[str, int] = model["vocab"]
    if sorted(ids.values()) != list(range(len(ids))) or any("\n" in token for token in ids):
        raise refused("the ids of its vocabulary have gaps, or a token has a line break")
    lines = "\n".join(sorted(ids, key=ids.__getitem__)).encode()
    lowercase = bool(normalizer["lowercase"])
    accents = normalizer["strip_accents"]
    return {
        "vocabulary": tensors.add_bytes("vocabulary", lines, type="text"),
        "clean_text": bool(normalizer["clean_text"]),
        "chinese_characters": bool(normalizer["handle_chinese_chars"]),
        "strip_accents": lowercase if accents is None else bool(accents),
        "lowercase": lowercase,
        "unknown": ids[model["unk_token"]],
        "prefix": model["continuing_subword_prefix"],
        "longest_word": model["max_input_chars_per_word"],
        "added": _added(tokenizer["added_tokens"]),
    }


def _added(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tokens that are found in the text before it is normalized."""
    for token in tokens:
        options = ("single_word", "lstrip", "rstrip", "normalized")
        if any(token[option] for option in options):
            raise refused(
                f"the added token {json.dumps(token['content'])} of its tokenizer has an option "
                f"among {', '.join(options)}"
            )
    return [{"content": token["content"], "id": token["id"]} for token in tokens]


def _template(folder: Path) -> dict[str, Any]:
    """The ids before and after those of a text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    word = "a"
    inner, whole = (tokenizer.encode(word, add_special_tokens=special) for special in (False, True))
    # No special token is a word of the vocabulary, so the text's ids are found once.
    size = len(inner.ids)
    starts = [i for i in range(len(whole.ids) - size + 1) if whole.ids[i : i + size] == inner.ids]
    if len(starts) != 1 or any(whole.type_ids):
        raise refused("its tokenizer puts more around a text than special tokens of type 0")
    before, after = whole.ids[: starts[0]], whole.ids[starts[0] + size :]
    return {"before": before, "after": after}
