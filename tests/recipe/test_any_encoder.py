"""The shipped recipes name no architecture: they find the layers of whatever encoder they get."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from project import CONF
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from sparsekit.config.plain import plain
from sparsekit.modifiers.quantization.fake_quantize import QuantEmbedding, QuantLinear
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.recipe import schedule
from sparsekit.recipe.recipe import Recipe
from sparsekit.sparsity.prunable import prunable

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def bert() -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**SIZES))


def distilbert() -> PreTrainedModel:
    sizes = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    return DistilBertForSequenceClassification(DistilBertConfig(**sizes))


def roberta() -> PreTrainedModel:
    return RobertaForSequenceClassification(RobertaConfig(**SIZES))


def electra() -> PreTrainedModel:
    return ElectraForSequenceClassification(ElectraConfig(**SIZES, embedding_size=16))


def mpnet() -> PreTrainedModel:
    return MPNetForSequenceClassification(MPNetConfig(**SIZES))


def modernbert() -> PreTrainedModel:
    special = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
    special |= {"bos_token_id": 1, "eos_token_id": 2}
    return ModernBertForSequenceClassification(ModernBertConfig(**SIZES, **special))


# With the Linear layers of the model, and those of its two transformer layers.
ARCHITECTURES = pytest.mark.parametrize(
    ("make", "linears", "in_layers"),
    [
        (bert, 14, 12),
        (distilbert, 14, 12),
        (roberta, 14, 12),
        (electra, 15, 12),
        (mpnet, 14, 12),
        (modernbert, 10, 8),
    ],
)


def composed(name: str, *overrides: str) -> Recipe:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        choices = [f"recipe={name}", "dataset=rotten_tomatoes", *overrides]
        return Recipe.build(plain(compose("config", choices).recipe))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(input_ids=torch.arange(3, 19).view(2, 8)).logits
    return output


@ARCHITECTURES
def test_every_linear_layer_is_quantized(make: Any, linears: int, in_layers: int) -> None:
    torch.manual_seed(0)
    model = make()
    recipe = composed("pruned90_quant", "~recipe.modifiers.pruning").for_teacher(has_teacher=False)
    recipe.attach(model)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    assert all(isinstance(m, QuantLinear | QuantEmbedding) for m in layers.values())
    assert set(recipe.quantized_modules) == set(layers)
    rows = {row["name"]: row for row in schedule.windows(recipe, 26)}
    assert rows["quantization"]["note"] == f"{linears} of {linears} Linear layers"
    exact = logits(model)
    recipe.update(10.0)
    model.train()
    rounded = logits(model)
    assert torch.isfinite(rounded).all()
    assert not torch.equal(rounded, exact)


@ARCHITECTURES
def test_every_layer_of_the_stack_is_pruned(make: Any, linears: int, in_layers: int) -> None:
    torch.manual_seed(0)
    model = make()
    recipe = composed("gradual90_quant", "~recipe.modifiers.quantization")
    recipe.attach(model)
    assert recipe.masked_names == {f"{name}.weight" for name in prunable(model)}
    assert len(recipe.masked_names) == in_layers
    recipe.update(29.0)
    for name, module in prunable(model).items():
        share = int((module.weight == 0).sum()) / module.weight.numel()
        assert share == pytest.approx(0.9, abs=1e-3), name


def test_berts_modules_are_those_that_sparsemls_recipes_name() -> None:
    torch.manual_seed(0)
    found = []
    for names in ([], ["bert.embeddings", "bert.encoder", "bert.pooler", "classifier"]):
        modifier = Quantization(submodules=names)
        modifier.attach(bert())
        found.append(modifier.modules)
    assert found[0] == found[1]
    assert len(found[0]) == 14 + 3


def test_given_names_narrow_what_is_quantized() -> None:
    model = bert()
    modifier = Quantization(submodules=["bert.encoder"])
    modifier.attach(model)
    assert modifier.note == "12 of 14 Linear layers"
