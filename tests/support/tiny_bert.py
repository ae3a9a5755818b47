"""The config of a BERT as small as a test needs where its sizes do not matter."""

from __future__ import annotations

from typing import Any

from transformers import BertConfig


def tiny_bert(**changes: Any) -> BertConfig:
    """One layer with 2 heads, 16 hidden features and 32 neurons, for 50 tokens."""
    sizes: dict[str, Any] = {
        **{"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "intermediate_size": 32},
    }
    return BertConfig(**sizes | changes)
