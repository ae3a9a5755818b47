"""The shortened last layer computes the same loss and gradients as the whole one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from sparsekit.models.first_token import MODEL_TYPES, only_first_token


def make(kind: str, architecture: Any = AutoModelForSequenceClassification) -> PreTrainedModel:
    config = AutoConfig.for_model(
        kind, vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        max_position_embeddings=40, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model: PreTrainedModel = architecture.from_config(config)
    return model.train()


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_loss_and_gradients_are_those_of_the_whole_layer(kind: str) -> None:
    whole = make(kind)
    short = copy.deepcopy(whole)
    seen: list[torch.Size] = []
    assert only_first_token(short, lambda: short.training)
    short.base_model.encoder.layer[-1].output.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape)
    )
    batch = {"input_ids": torch.randint(2, 50, (3, 9)), "labels": torch.tensor([0, 1, 1])}
    batch["attention_mask"] = torch.ones(3, 9, dtype=torch.int64)
    batch["attention_mask"][1, 5:] = 0
    results = [model(**batch) for model in (whole, short)]
    torch.testing.assert_close(results[1].logits, results[0].logits, rtol=1e-5, atol=1e-6)
    for result in results:
        result.loss.backward()
    expected = {name: p.grad for name, p in whole.named_parameters()}
    for name, parameter in short.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    short.eval()(**batch)
    assert [shape[1] for shape in seen] == [1, 9]


@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize("chunk", [1, 4])
def test_a_model_that_works_in_chunks_stays_whole_or_is_right(kind: str, chunk: int) -> None:
    whole = make(kind)
    config = copy.deepcopy(whole.config)
    config.chunk_size_feed_forward = chunk
    chunked = AutoModelForSequenceClassification.from_config(config).train()
    chunked.load_state_dict(whole.state_dict())
    assert (only_first_token(chunked) is None) == (chunk > 1)
    ids = torch.randint(2, 50, (3, 8))
    torch.testing.assert_close(chunked(ids).logits, whole(ids).logits, rtol=1e-5, atol=1e-6)


def test_other_models_stay_whole() -> None:
    config = AutoConfig.for_model("distilbert", dim=16, n_heads=2, n_layers=1, hidden_dim=8)
    model = AutoModelForSequenceClassification.from_config(config)
    assert not only_first_token(model, lambda: True)
