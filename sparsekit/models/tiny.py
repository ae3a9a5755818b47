"""A small BERT with its own vocabulary, pretrained on the quickstart's reviews without labels.

It takes the place of the pretrained model that a real run loads from the Hub: dense, without a
classification head.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from sparsekit.cache import cached, content_hash
from sparsekit.data import synthetic as grammar

log = logging.getLogger(__name__)
MASKED = 0.15
BATCH = 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_POSITIONS = 64


def checkpoint(
    *,
    layers: int = 2,
    hidden: int = 128,
    heads: int = 4,
    epochs: int = 3,
    learning_rate: float = 5.0e-4,
    seed: int = 0,
) -> str:
    """The folder of the model, created on first use and cached by the hash of its arguments."""
    made_from = [layers, hidden, heads, epochs, learning_rate, seed]
    sources = [inspect.getsource(grammar), Path(__file__).read_text(encoding="utf-8")]

    def make(folder: Path) -> None:
        texts = list(grammar.reviews(seed)["train"]["text"])
        tokenizer = write_tokenizer(texts, folder)
        torch.manual_seed(seed)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=2 * hidden,
                max_position_embeddings=MAX_POSITIONS,
                # A model this small does not overfit in so few epochs.
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        log.info("pretraining a BERT of %d layers on %d reviews, once", layers, len(texts))
        pretrain(model, tokenizer, texts, epochs, learning_rate)
        model.save_pretrained(folder)

    key = content_hash([json.dumps(made_from), *sources])
    return str(cached("quickstart", key, make))


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Special tokens, characters, and the texts' words, in the order of their ids.

    The texts alone decide it. The `WordPieceTrainer` of tokenizers orders tokens by a hash that
    differs between processes, so the same seed would give a different model each time.
    """
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = {
        word
        for text in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    }
    characters = sorted(set().union(*words))
    longer = sorted(word for word in words if len(word) > 1)
    return [*SPECIAL, *characters, *(f"##{each}" for each in characters), *longer]


def write_tokenizer(texts: list[str], folder: Path) -> BertTokenizer:
    """A tokenizer with the texts' vocabulary, saved in `folder` as transformers reads it."""
    tokens = "".join(f"{token}\n" for token in vocabulary(texts))
    (folder / "vocab.txt").write_text(tokens, encoding="utf-8")
    tokenizer = BertTokenizer(
        vocab=str(folder / "vocab.txt"), model_max_length=MAX_POSITIONS, do_lower_case=True
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def pretrain(
    model: BertForMaskedLM,
    tokenizer: BertTokenizer,
    texts: list[str],
    epochs: int,
    learning_rate: float,
) -> None:
    """Masked-language modelling: the model predicts 15 % of the tokens, which are masked."""
    rows = [torch.tensor(ids) for ids in tokenizer(texts)["input_ids"]]
    steps = epochs * -(-len(rows) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for ids in _batches(rows, tokenizer.pad_token_id):
            attention_mask = ids != tokenizer.pad_token_id
            masked = attention_mask & (torch.rand(ids.shape) < MASKED)
            labels = ids.masked_fill(~masked, -100)
            inputs = ids.masked_fill(masked, tokenizer.mask_token_id)
            loss = model(input_ids=inputs, attention_mask=attention_mask, labels=labels).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()


def _batches(rows: list[Tensor], padding: int) -> Iterator[Tensor]:
    order = torch.randperm(len(rows))
    for start in range(0, len(rows), BATCH):
        indices = order[start : start + BATCH]
        yield pad_sequence([rows[i] for i in indices], batch_first=True, padding_value=padding)
