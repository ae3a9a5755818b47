"""SparseML's newer dialect of quantization: schemes, overrides, what is ignored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_bert import tiny_bert
from transformers import BertForSequenceClassification

from sparsekit.errors import ConfigError
from sparsekit.modifiers.quantization.fake_quantize import (
    FakeQuantizer,
    QuantEmbedding,
    QuantLinear,
)
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.modifiers.quantization.scheme import Activations, Scheme, Weights, parse_scheme


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_bert())


def test_default_quantizes_inputs_and_weights_everywhere(
    model: BertForSequenceClassification,
) -> None:
    Quantization(scheme="default").attach(model)
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linears) == 8
    for layer in linears:
        assert isinstance(layer, QuantLinear)
        assert layer.input_quantizer is not None and layer.output_quantizer is None
    words = model.bert.embeddings.word_embeddings
    assert isinstance(words, QuantEmbedding)
    assert words.weight_quantizer is not None and words.output_quantizer is None


def test_names_beat_classes_and_classes_beat_the_scheme(
    model: BertForSequenceClassification,
) -> None:
    modifier = Quantization(
        scheme={"weights": {"strategy": "channel"}},
        scheme_overrides={"Embedding": "default", "classifier": {"input_activations": None}},
        ignore=["bert.pooler", "LayerNorm"],
    )
    assert modifier.problems(3) == []
    modifier.attach(model)
    assert type(model.bert.pooler.dense) is torch.nn.Linear
    assert isinstance(model.classifier, QuantLinear)
    assert model.classifier.input_quantizer is None
    assert model.classifier.weight_quantizer is not None
    assert not model.classifier.weight_quantizer.per_channel
    query = model.bert.encoder.layer[0].attention.self.query
    assert isinstance(query, QuantLinear) and query.weight_quantizer is not None
    assert query.weight_quantizer.per_channel and query.weight_quantizer.scale.shape == (16,)


def test_a_module_speaks_for_all_that_it_holds(model: BertForSequenceClassification) -> None:
    """As in SparseML: the longest name that a layer's name starts with, else its class."""
    channels = {"weights": {"strategy": "channel"}}
    modifier = Quantization(
        scheme=channels,
        scheme_overrides={
            "bert.encoder": {"input_activations": None},
            "bert.encoder.layer.0.output": "tensorrt",
            "bert.encoder.layer.0.attention.output.dense": "default",
            "Linear": {"weights": {"strategy": "tensor"}},
            "LayerNorm": {"input_activations": None},
        },
    )
    assert modifier.problems(3) == []
    modifier.attach(model)

    def said(layer: torch.nn.Module) -> tuple[bool | None, bool]:
        assert isinstance(layer, QuantLinear) and layer.weight_quantizer is not None
        inputs = layer.input_quantizer
        return inputs and inputs.symmetric, layer.weight_quantizer.per_channel

    layer = model.bert.encoder.layer[0]
    assert said(layer.attention.self.query) == (None, False)
    assert said(layer.output.dense) == (True, False)
    assert said(layer.attention.output.dense) == (False, True)
    assert said(model.classifier) == (False, False)


@pytest.mark.parametrize("key", ["LayerNorm", "bert.embeddings.LayerNorm", "BertPooler"])
def test_an_override_without_a_layer_to_quantize(
    model: BertForSequenceClassification, key: str
) -> None:
    with pytest.raises(ConfigError, match=f"no Linear or Embedding layer in {key},"):
        Quantization(scheme_overrides={key: "tensorrt"}).attach(model)


def test_symmetric_activations_have_their_zero_in_the_middle() -> None:
    quantizer = FakeQuantizer((0, 255), symmetric=True).train()
    quantizer.enabled = quantizer.observing = True
    values = torch.tensor([-1.0, 0.0, 0.5])
    rounded = quantizer(values)
    assert quantizer.zero_point.item() == 128
    assert quantizer.scale.item() == pytest.approx(1 / 127.5)
    torch.testing.assert_close(rounded, values, atol=1 / 255, rtol=0)
    assert rounded[1] == 0


def test_a_name_that_the_model_lacks(model: BertForSequenceClassification) -> None:
    fields: dict[str, Any] = {"scheme_overrides": {"Conv9d": "default"}, "ignore": ["bert.poler"]}
    with pytest.raises(ConfigError) as caught:
        Quantization(**fields).attach(model)
    assert len(caught.value.problems) == 2
    assert "'bert.poler' is neither a module nor a class of the model" in caught.value.problems[0]
    Quantization(**fields, strict=False).attach(model)


@pytest.mark.parametrize("kept", [True, False])
def test_outputs_of_embeddings(model: BertForSequenceClassification, kept: bool) -> None:
    modifier = Quantization(submodules=["bert"], quantize_embedding_activations=kept)
    assert modifier.problems(3) == []
    modifier.attach(model)
    words = model.bert.embeddings.word_embeddings
    assert isinstance(words, QuantEmbedding) and words.weight_quantizer is not None
    assert (words.output_quantizer is not None) == kept


def test_two_dialects_at_once_are_refused() -> None:
    [problem] = Quantization(scheme="default", submodules=["bert"]).problems(3)
    assert "submodules and scheme, scheme_overrides or ignore are two ways" in problem


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("openvino", "'openvino' is not one of default, deepsparse, tensorrt"),
        ({"weight": {}}, "a scheme has no 'weight'; known: input_activations, weights"),
        ({"weights": {"num_bits": 4}}, "num_bits 4 is not 8"),
        ({"weights": {"symmetric": False}}, "int8 matmuls need symmetric weights"),
        ({"weights": {"strategy": "group"}}, "strategy 'group' is neither tensor nor channel"),
        ({"weights": {"bits": 8}}, "weights has no 'bits'; known: num_bits"),
        ({"weights": {"kwargs": {"averaging_constant": 0.1}}}, "have no meaning here"),
        ({"input_activations": {"strategy": "channel"}}, "strategy channel is for weights"),
    ],
)
def test_what_deployment_cannot_express(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_scheme(value)
    [found] = Quantization(scheme_overrides={"Linear": value}).problems(3)
    assert found.startswith("Linear: ") and problem in found


def test_named_schemes() -> None:
    assert parse_scheme(None) == parse_scheme("deepsparse") == Scheme()
    assert parse_scheme("tensorrt") == Scheme(inputs=Activations(symmetric=True))
    spelt = {"weights": {"strategy": "channel"}, "output_activations": {"symmetric": False}}
    assert parse_scheme(spelt) == Scheme(weights=Weights(True), outputs=Activations())


def test_a_class_to_exclude_that_there_is_not(model: BertForSequenceClassification) -> None:
    with pytest.raises(ConfigError, match=r"exclude_module_types: 'LayerNrm' is neither a class"):
        Quantization(exclude_module_types=["LayerNrm"]).attach(model)
    # A class of torch.nn that this model has no module of.
    Quantization(exclude_module_types=["LayerNorm", "Conv1d"]).attach(model)
