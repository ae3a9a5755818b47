"""Relations between tokens: their values, padding, widths, and one run of the teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from sparsekit.errors import ConfigError
from sparsekit.modifiers.distillation.attention import AttentionDistillation, relation_distance
from sparsekit.modifiers.distillation.layers import PerLayerDistillation


def classifier(
    layers: int, width: int = 16, seed: int = 0, heads: int = 2
) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=width,
        initializer_range=0.5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config).train()


def attached(
    student: BertForSequenceClassification, teacher: BertForSequenceClassification, **fields: Any
) -> AttentionDistillation:
    modifier = AttentionDistillation(**fields)
    modifier.use_teacher(teacher)
    modifier.attach(student)
    modifier.update(0.0)
    return modifier


IDS = torch.tensor([[1, 2, 3, 4]])


def attention_loss(
    modifier: AttentionDistillation, student: BertForSequenceClassification, padding: int = 0
) -> float:
    ids = torch.nn.functional.pad(IDS, (0, padding), value=7)
    mask = torch.nn.functional.pad(torch.ones_like(IDS), (0, padding))
    batch = {"input_ids": ids, "attention_mask": mask}
    return float(modifier.loss(torch.zeros(()), batch, student(**batch)).detach())


def relations(vectors: np.ndarray, heads: int) -> np.ndarray:
    """[heads, tokens, tokens] of [tokens, width], as the paper writes them."""
    tokens, width = vectors.shape
    split = vectors.reshape(tokens, heads, width // heads).transpose(1, 0, 2)
    exps = np.exp(split @ split.transpose(0, 2, 1) / np.sqrt(width // heads))
    return exps / exps.sum(axis=-1, keepdims=True)


def test_the_distance_is_the_mean_divergence_of_rows_of_relations() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=(5, 8)), generator.normal(size=(5, 12))
    found = relation_distance(torch.tensor(ours)[None], torch.tensor(theirs)[None], None, 4)
    student, teacher = relations(ours, 4), relations(theirs, 4)
    expected = (teacher * np.log(teacher / student)).sum(axis=-1).mean()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def projections(model: BertForSequenceClassification) -> list[torch.Tensor]:
    """The queries, keys and values of the last layer on `IDS`."""
    found: list[torch.Tensor] = []
    attention = model.bert.encoder.layer[-1].attention.self
    hooks = [
        getattr(attention, part).register_forward_hook(lambda _, __, output: found.append(output))
        for part in ("query", "key", "value")
    ]
    with torch.no_grad():
        model(input_ids=IDS)
    for hook in hooks:
        hook.remove()
    return found


def test_the_loss_is_gain_times_the_sum_of_three_distances() -> None:
    """By default in as many parts as the teacher has heads."""
    student, teacher = classifier(2), classifier(2, seed=1, heads=4)
    pairs = zip(projections(student), projections(teacher), strict=True)
    expected = sum(float(relation_distance(own, theirs, None, 4)) for own, theirs in pairs)
    modifier = attached(student, teacher, gain=2.0)
    assert modifier.note == "1 layers, 4 relation heads"
    assert attention_loss(modifier, student) == pytest.approx(2 * expected, rel=1e-5)
    assert modifier.logs() == {"attention_loss": pytest.approx(expected, rel=1e-5)}


@pytest.mark.parametrize("layers", ["last", "all"])
def test_a_student_equal_to_its_teacher_has_no_distance(layers: str) -> None:
    student = classifier(2)
    assert attention_loss(attached(student, classifier(2), layers=layers), student) < 1e-6
    student = classifier(2)
    assert attention_loss(attached(student, classifier(2, seed=1), layers=layers), student) > 0.01


def test_padding_changes_nothing() -> None:
    student, teacher = classifier(2), classifier(2, seed=1)
    modifier = attached(student, teacher)
    plain = attention_loss(modifier, student)
    assert attention_loss(modifier, student, padding=3) == pytest.approx(plain, rel=1e-4)


def test_training_on_it_brings_attention_closer() -> None:
    """Other depths, widths and parts: only the relations are compared."""
    student = classifier(2)
    modifier = attached(student, classifier(4, width=32, seed=1), relation_heads=4)
    assert modifier.note == "1 layers, 4 relation heads"
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
        loss = modifier.loss(torch.zeros(()), batch, student(**batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
    assert modifier.logs()["attention_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_two_distillations_run_the_teacher_once_a_batch() -> None:
    student, teacher = classifier(2), classifier(2, seed=1)
    attention = attached(student, teacher)
    hidden = PerLayerDistillation(gain=1.0, student_layer_names=["__LAYERS__"])
    hidden.use_teacher(teacher)
    hidden.attach(student)
    hidden.update(0.0)
    runs = list[int]()
    teacher.register_forward_hook(lambda *_: runs.append(1))
    zero, mask = torch.zeros(()), torch.ones_like(IDS)
    for expected in (1, 2):
        batch = {"input_ids": IDS + expected, "attention_mask": mask}
        outputs = student(**batch)
        of_attention = attention.loss(zero, batch, outputs).detach()
        of_both = hidden.loss(of_attention, batch, outputs).detach()
        assert len(runs) == expected
        assert float(of_both) > float(of_attention) > 0
    # Without a loss in between, the next batch is still compared with itself.
    student(input_ids=IDS)
    batch = {"input_ids": IDS + 5, "attention_mask": mask}
    again = attention.loss(zero, batch, student(**batch)).detach()
    fresh = classifier(2)
    expected_loss = attached(fresh, teacher).loss(zero, batch, fresh(**batch)).detach()
    assert float(again) == pytest.approx(float(expected_loss))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gain": -1.0}, "gain -1 must be 0 or more"),
        ({"layers": "first"}, "layers 'first' is not known; set last or all"),
        ({"relation_heads": 0}, "relation_heads 0 must be 1 or more, or null"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], message: str) -> None:
    assert message in AttentionDistillation(**fields).problems(1)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"relation_heads 3 does not divide .*: 16; .* of 16$"):
        attached(classifier(2), classifier(2), relation_heads=3)
    unknown = classifier(2)
    unknown.config.model_type = "unknown"
    with pytest.raises(ConfigError, match="are not known; choose one of"):
        attached(classifier(2), unknown)
