"""Words that a masked-LM head puts in the place of others, for augmented texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.data.augmentation import MaskedText
from sparsekit.errors import UserError
from sparsekit.models.hub import fetch
from sparsekit.models.loading import embedded_tokens, load_weights, positions_of, read_config
from sparsekit.models.tokenizer import load_tokenizer, pad_as_expected

# A word is drawn from so many of the likeliest ones, by their probabilities.
CANDIDATES = 10
BATCH = 64
# Longer texts are cut in the model's view; masked words beyond the end are left out of the text.
MAX_LENGTH = 128


class MaskedWords:
    """Fills masked words by what a checkpoint's masked-LM head finds likely there.

    Only whole words that are one token are drawn, and never a special token. Raises UserError for
    a checkpoint without a masked-LM head or mask token.
    """

    def __init__(self, checkpoint: str) -> None:
        folder = fetch(checkpoint)
        model, missing = load_weights(folder, AutoModelForMaskedLM, "masked words")
        if missing:
            raise UserError(
                f"dataset.augment.masked_lm: {checkpoint} has no masked-LM head (it lacks "
                f"{', '.join(missing[:3])}); choose a checkpoint as it was pretrained"
            )
        config = read_config(folder)
        limit = min(MAX_LENGTH, positions_of(config) or MAX_LENGTH)
        self._model: PreTrainedModel = model.eval()
        self._tokenizer = load_tokenizer(folder, config, limit, embedded_tokens(model))
        pad_as_expected(self._tokenizer, self._model)
        if self._tokenizer.mask_token is None:
            raise UserError(
                f"dataset.augment.masked_lm: the tokenizer of {checkpoint} has no mask token"
            )
        self._words, self._ids = _whole_words(self._tokenizer)

    def __call__(
        self, texts: Sequence[MaskedText], generator: np.random.Generator
    ) -> list[list[str]]:
        """The words of each text, with a word of the model's for each None."""
        # Texts of like lengths side by side waste little on padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        filled: list[list[str]] = [[] for _ in texts]
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            batch = [texts[index] for index in chosen]
            for index, words in zip(chosen, self._fill(batch, generator), strict=True):
                filled[index] = words
        return filled

    def _fill(self, texts: Sequence[MaskedText], generator: np.random.Generator) -> list[list[str]]:
        mask = str(self._tokenizer.mask_token)
        # A mask that a text itself holds is none of ours to fill.
        whole = [
            " ".join(mask if word is None else word.replace(mask, "") for word in words)
            for words in texts
        ]
        inputs: Any = self._tokenizer(whole, padding=True, truncation=True, return_tensors="pt")
        probabilities, likeliest = self._candidates(dict(inputs))
        rows, _ = torch.where(inputs["input_ids"] == self._tokenizer.mask_token_id)
        drawn: list[list[str]] = [[] for _ in texts]
        for row, weights, words in zip(rows.tolist(), probabilities, likeliest, strict=True):
            drawn[row].append(self._words[int(generator.choice(words, p=weights))])
        return [_filled(words, found) for words, found in zip(texts, drawn, strict=True)]

    def _candidates(self, inputs: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest words of each mask: probabilities and indices, [masks, CANDIDATES]."""
        with torch.inference_mode():
            logits = self._model(**inputs).logits
        masks = inputs["input_ids"] == self._tokenizer.mask_token_id
        found = logits[masks][:, self._ids].topk(min(CANDIDATES, len(self._ids)), dim=-1)
        probabilities = found.values.double().softmax(dim=-1).numpy()
        return probabilities / probabilities.sum(axis=-1, keepdims=True), found.indices.numpy()


def _filled(words: MaskedText, drawn: Sequence[str]) -> list[str]:
    # A mask beyond the longest length has no answer.
    answers = iter(drawn)
    made = (next(answers, None) if word is None else word for word in words)
    return [word for word in made if word is not None]


def _whole_words(tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], Tensor]:
    """The words that are one token each, and their ids [words]."""
    texts = [str(tokenizer.decode([index])).strip() for index in range(len(tokenizer))]
    # As in the middle of a text, where a byte-level tokenizer reads the blank too.
    tokens = tokenizer([f" {text}" for text in texts], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids)
    found = [
        index
        for index, text in enumerate(texts)
        if text.isalpha() and index not in special and tokens[index] == [index]
    ]
    return [texts[index] for index in found], torch.tensor(found)
