"""Hidden states after each layer, paired by depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from sparsekit.errors import ConfigError
from sparsekit.modifiers.distillation.layers import PerLayerDistillation, feature_distance


def classifier(layers: int, width: int = 16) -> BertForSequenceClassification:
    torch.manual_seed(layers)
    config = BertConfig(
        vocab_size=20,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def attached(
    student: BertForSequenceClassification,
    teacher: BertForSequenceClassification,
    **fields: Any,
) -> PerLayerDistillation:
    given = {"gain": 1.0, "student_layer_names": ["__LAYERS__"]}
    modifier = PerLayerDistillation(**given | fields)
    modifier.use_teacher(teacher)
    modifier.attach(student)
    modifier.update(0.0)
    return modifier


def layer_loss(modifier: PerLayerDistillation, student: BertForSequenceClassification) -> float:
    batch = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3)}
    return float(modifier.loss(torch.zeros(()), batch, student.train()(**batch)).detach())


@pytest.mark.parametrize("normalize", [True, False])
def test_the_distance_is_the_mean_squared_error_without_padding(normalize: bool) -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=(2, 3, 4)), generator.normal(scale=3.0, size=(2, 3, 4))
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    found = feature_distance(*map(torch.tensor, (ours, theirs, mask)), normalize, 0.5)
    rows, taught = ours[mask == 1], theirs[mask == 1]
    expected = ((rows - taught) ** 2).mean()
    if normalize:
        expected /= (taught**2).mean() + 0.5
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_loss_rises_by_gain_times_the_distances() -> None:
    student = classifier(2)
    once = layer_loss(attached(student, classifier(4)), student)
    student = classifier(2)
    modifier = attached(student, classifier(4), gain=2.0)
    assert layer_loss(modifier, student) == pytest.approx(2 * once)
    assert modifier.logs() == {"layer_loss": pytest.approx(once)}


@pytest.mark.parametrize(
    ("own", "theirs", "taught"),
    [(2, 4, "1, 3"), (3, 6, "1, 3, 5"), (2, 2, "0, 1"), (2, 3, "0, 2"), (4, 2, "0, 0, 0, 1")],
)
def test_layers_are_paired_by_depth(own: int, theirs: int, taught: str) -> None:
    """The last of the student's learns from the last of the teacher's, and the schedule says so."""
    modifier = attached(classifier(own), classifier(theirs))
    assert modifier.note == f"{own} layers, from the teacher's {taught}"


@pytest.mark.parametrize("kind", ["one type", "distilbert"])
def test_a_teacher_reads_only_the_inputs_that_it_has(kind: str) -> None:
    """The student's tokens have types: 1 for a second text, which the teacher cannot embed."""
    student = classifier(2)
    if kind == "one type":
        config = student.config.__class__(**{**student.config.to_dict(), "type_vocab_size": 1})
        teacher = BertForSequenceClassification(config)
        names = ["bert.encoder.layer.1.output.dense"]
    else:
        sizes = {"vocab_size": 20, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16}
        teacher = DistilBertForSequenceClassification(DistilBertConfig(**sizes))
        names = ["distilbert.transformer.layer.1.ffn.lin2"]
    modifier = PerLayerDistillation(
        gain=1.0,
        student_layer_names=["bert.encoder.layer.1.output.dense"],
        teacher_layer_names=names,
    )
    modifier.use_teacher(teacher)
    modifier.attach(student)
    modifier.update(0.0)
    batch = {
        "input_ids": torch.tensor([[1, 2, 3]]),
        "attention_mask": torch.ones(1, 3),
        "token_type_ids": torch.tensor([[0, 0, 1]]),
    }
    loss = modifier.loss(torch.zeros(()), batch, student.train()(**batch))
    assert torch.isfinite(loss) and loss > 0


def test_a_student_equal_to_its_teacher_has_no_distance() -> None:
    student = classifier(2)
    modifier = attached(student, classifier(2))
    assert layer_loss(modifier, student) == pytest.approx(0.0, abs=1e-6)
    other = classifier(2)
    torch.nn.init.normal_(other.get_parameter("bert.encoder.layer.1.output.dense.weight"))
    student = classifier(2)
    assert layer_loss(attached(student, other), student) > 1e-3


def test_the_teacher_runs_without_dropout() -> None:
    student, teacher = classifier(2), classifier(2).train()
    for module in teacher.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert layer_loss(attached(student, teacher), student) == pytest.approx(0.0, abs=1e-6)


def test_widths_may_differ() -> None:
    student = classifier(2)
    modifier = attached(student, classifier(4, width=32))
    assert layer_loss(modifier, student) > 0
    modifier.detach(student)
    assert not [name for name in student.state_dict() if "projection" in name]


def test_the_logged_loss_weighs_parts_of_a_step_by_their_rows() -> None:
    """With gradient accumulation: three rows and one row of a step have weights 1.5 and 0.5."""
    student = classifier(2)
    modifier, values = attached(student, classifier(4)), []
    for weight, rows in ((1.5, 3), (0.5, 1)):
        ids = torch.arange(3 * rows).reshape(rows, 3)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs = {**batch, "loss_weight": torch.tensor(weight)}
        total = modifier.loss(torch.zeros(()), inputs, student.train()(**batch))
        values.append(float(total.detach()))
    mean = (1.5 * values[0] + 0.5 * values[1]) / 2
    assert modifier.logs() == {"layer_loss": pytest.approx(mean)}
    assert values[0] != pytest.approx(values[1], rel=1e-3)


def test_models_without_known_layers_are_refused() -> None:
    for own, theirs in ((["__LAYERS__"], ["a"]), (["__LAYERS__", "a"], None)):
        both = PerLayerDistillation(student_layer_names=own, teacher_layer_names=theirs)
        assert "__LAYERS__ stands alone" in both.problems(1)[0]
    other = classifier(2)
    other.config.model_type = "unknown"
    with pytest.raises(ConfigError, match="__LAYERS__"):
        attached(classifier(2), other)


def test_all_tokens_are_read_in_the_window_alone() -> None:
    modifier = PerLayerDistillation(start=1.0, end=2.0, student_layer_names=["__LAYERS__"])
    assert not modifier.reads_all_tokens
    modifier.use_teacher(classifier(2))
    student = classifier(2)
    modifier.attach(student)
    for epoch, reads in ((0.5, False), (1.5, True), (2.5, False)):
        modifier.update(epoch)
        assert modifier.reads_all_tokens == reads
    off = PerLayerDistillation(gain=0.0)
    off.attach(student)
    off.update(0.0)
    assert not off.reads_all_tokens


def test_two_on_other_layers_each_learn_a_matrix_of_their_own() -> None:
    student, teacher = classifier(2), classifier(2, width=32)
    before = set(student.state_dict())
    both = []
    for name in ("bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.output.dense"):
        modifier = PerLayerDistillation(gain=1.0, student_layer_names=[name])
        modifier.use_teacher(teacher)
        modifier.attach(student)
        both.append(modifier)
    for modifier in both:
        modifier.update(0.0)
        assert layer_loss(modifier, student) > 0
    assert len(set(student.state_dict()) - before) == 2
    for modifier in both:
        modifier.detach(student)
    assert set(student.state_dict()) == before
