"""The Fisher's blocks against dense matrices, inverted and minimized directly; row gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsekit.errors import UserError
from sparsekit.sparsity import fisher as fisher_module
from sparsekit.sparsity.fisher import BlockFisher, Fisher, GradientFisher
from sparsekit.sparsity.gradients import Products, example_gradients
from sparsekit.sparsity.packed_fisher import PackedFisher
from sparsekit.sparsity.surgeon import measure

WEIGHTS, BLOCK, DAMP = 28, 8, 1e-3  # the last of four blocks is half full
KINDS = ["blocks", "packed", "gradients"]


def fisher_of(kind: str, gradients: Tensor) -> Fisher:
    if kind == "blocks":
        fisher: Fisher = BlockFisher.zeros(gradients.shape[1], BLOCK, gradients.device)
    elif kind == "packed":
        fisher = PackedFisher.zeros(gradients.shape[1], BLOCK)
    else:
        fisher = GradientFisher(BLOCK)
    for part in gradients.split(5):
        fisher.add(Products.of(part))
    return fisher


def dense(gradients: Tensor) -> Tensor:
    """The whole matrix in float64, with zeros outside the blocks."""
    wide = gradients.double()
    matrix = wide.T @ wide / len(wide)
    block = torch.arange(WEIGHTS) // BLOCK
    matrix = matrix * (block[:, None] == block[None, :])
    return matrix + DAMP * torch.eye(WEIGHTS, dtype=torch.float64)


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Gradients, weights, and a mask under which some weights are pruned already."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(WEIGHTS, WEIGHTS, generator=generator)
    gradients = torch.randn(12, WEIGHTS, generator=generator) @ mixing * 0.1
    weight = torch.randn(WEIGHTS, generator=generator)
    keep = torch.rand(WEIGHTS, generator=generator) > 0.25
    return gradients, weight * keep, keep


@pytest.mark.parametrize("kind", KINDS)
def test_saliency_is_that_of_the_dense_inverse_without_pruned_weights(
    kind, drawn, monkeypatch
) -> None:
    gradients, weight, keep = drawn
    monkeypatch.setattr(fisher_module, "CHUNK", 100)  # several chunks of blocks
    actual = fisher_of(kind, gradients).saliency(weight, keep, DAMP)
    inverse = torch.linalg.inv(dense(gradients)[keep][:, keep])
    expected = weight[keep].double() ** 2 / (2 * inverse.diagonal())
    torch.testing.assert_close(actual[keep].double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_saliencies_of_half_precision_weights_do_not_underflow(kind, drawn) -> None:
    gradients, weight, keep = drawn
    fisher, half = fisher_of(kind, gradients), (weight * 1e-4).half()
    actual = fisher.saliency(half, keep, DAMP)
    assert (actual[keep] > 0).all()
    torch.testing.assert_close(actual, fisher.saliency(half.float(), keep, DAMP))
    assert fisher.compensate(half, keep, DAMP).dtype == torch.float16


@pytest.mark.parametrize("kind", KINDS)
def test_saliency_of_a_group_is_the_least_rise_of_the_loss_without_it(kind, drawn) -> None:
    gradients, weight, _ = drawn
    keep = torch.ones(WEIGHTS, dtype=torch.bool)
    actual = fisher_of(kind, gradients).saliency(weight, keep, DAMP, group=4)
    matrix = dense(gradients)
    for start in range(0, WEIGHTS, 4):
        gone = torch.zeros(WEIGHTS, dtype=torch.bool)
        gone[start : start + 4] = True
        moved = least_rise(matrix, weight.double(), ~gone)
        step = moved - weight.double()
        rise = step @ matrix @ step / 2
        expected = rise.float().expand(4)
        torch.testing.assert_close(actual[start : start + 4], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_remaining_weights_minimize_the_loss(kind, drawn, monkeypatch) -> None:
    gradients, weight, keep = drawn
    monkeypatch.setattr(fisher_module, "CHUNK", 100)
    stays = keep & (torch.arange(WEIGHTS) % 3 != 0)
    actual = fisher_of(kind, gradients).compensate(weight, stays, DAMP)
    expected = least_rise(dense(gradients), weight.double(), stays)
    assert (actual[~stays] == 0).all()
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_removing_one_weight_gives_the_optimal_brain_surgeon_update(kind, drawn) -> None:
    gradients, weight, _ = drawn
    removed = 3
    keep = torch.arange(WEIGHTS) != removed
    actual = fisher_of(kind, gradients).compensate(weight, keep, DAMP)
    inverse = torch.linalg.inv(dense(gradients))
    step = -weight[removed].double() / inverse[removed, removed] * inverse[:, removed]
    torch.testing.assert_close(actual.double(), weight.double() + step, rtol=1e-4, atol=1e-5)


def test_without_a_gradient_pruning_is_by_magnitude_and_nothing_moves() -> None:
    fisher = BlockFisher.zeros(WEIGHTS, BLOCK, torch.device("cpu"))
    weight = torch.linspace(-1, 2, WEIGHTS)
    keep = torch.ones(WEIGHTS, dtype=torch.bool)
    torch.testing.assert_close(fisher.saliency(weight, keep, DAMP), weight**2 / 2 * DAMP)
    stays = weight > 0
    assert torch.equal(fisher.compensate(weight, stays, DAMP), weight * stays)


def test_a_tiny_damp_and_fewer_gradients_than_weights_stay_solvable() -> None:
    gradients = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    fisher = BlockFisher.zeros(50, 50, torch.device("cpu"))
    fisher.add(Products.of(gradients))
    keep = torch.ones(50, dtype=torch.bool)
    rises = fisher.saliency(torch.ones(50), keep, 1e-7)
    assert torch.isfinite(rises).all()
    assert (rises > 0).all()


# Gradients


class Output:
    def __init__(self, loss: Tensor) -> None:
        self.loss = loss


class Shared(nn.Module):
    """A classifier of sequences that uses its first layer twice, as ALBERT does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor, labels: Tensor) -> Output:
        states = torch.tanh(self.body(torch.tanh(self.body(inputs))))
        return Output(functional.cross_entropy(self.head(states.mean(1)), labels))


class Relative(nn.Module):
    """A classifier whose first layer reads positions too, and whose result is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.positions = torch.randn(1, 4, 6)

    def forward(self, inputs: Tensor, labels: Tensor) -> Output:
        states = self.body(inputs)
        states /= 2.0
        states = torch.tanh(states + self.body(self.positions))
        return Output(functional.cross_entropy(self.head(states.mean(1)), labels))


@pytest.mark.parametrize("make", [Shared, Relative])
@pytest.mark.parametrize("examples", [1, 3])
def test_gradients_of_rows_are_those_of_batches_that_hold_only_them(
    examples: int, make: type[Shared | Relative]
) -> None:
    torch.manual_seed(0)
    model = make()
    batch = {"inputs": torch.randn(6, 4, 6), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    layers = {"body": model.body, "head": model.head}
    actual = {
        name: gradients.dense().clone()
        for name, gradients in example_gradients(model, batch, layers, examples)
    }
    assert actual.keys() == layers.keys()
    for index in range(6 // examples):
        rows = slice(index * examples, (index + 1) * examples)
        loss = model(batch["inputs"][rows], batch["labels"][rows]).loss
        for name, layer in layers.items():
            (expected,) = torch.autograd.grad(loss, [layer.weight], retain_graph=True)
            torch.testing.assert_close(actual[name][index], expected.flatten())
    assert model.body.weight.grad is None


class Tagger(nn.Module):
    """A classifier of tokens, whose loss is a mean over those that have a label."""

    def __init__(self, relative: bool) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(9, 6), nn.Linear(6, 3)
        self.positions = torch.randn(1, 4, 6) if relative else None

    def forward(self, input_ids: Tensor, labels: Tensor) -> Output:
        states = self.body(self.words(input_ids))
        if self.positions is not None:
            states = states + self.body(self.positions)
        return Output(functional.cross_entropy(states.flatten(0, 1), labels.flatten()))


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("examples", [1, 2])
def test_gradients_of_rows_with_different_numbers_of_labels(examples: int, relative: bool) -> None:
    torch.manual_seed(0)
    model = Tagger(relative)
    labels = torch.tensor([[1, -100, -100, -100], [0, 1, 2, 1], [2, 2, -100, -100], [-100] * 4])
    batch = {"input_ids": torch.randint(9, (4, 4)), "labels": labels}
    [(_, gradients)] = example_gradients(model, batch, {"body": model.body}, examples)
    actual = gradients.dense()
    for index, row in enumerate(range(0, 4, examples)):
        group = {name: values[row : row + examples] for name, values in batch.items()}
        (expected,) = torch.autograd.grad(model(**group).loss, [model.body.weight])
        torch.testing.assert_close(actual[index], expected.flatten())


@pytest.mark.parametrize("relative", [False, True])
def test_rows_without_a_label_have_no_gradient(relative: bool) -> None:
    model = Tagger(relative)
    batch = {"input_ids": torch.randint(9, (2, 4)), "labels": torch.full((2, 4), -100)}
    [(_, gradients)] = example_gradients(model, batch, {"body": model.body}, 1)
    assert not gradients.dense().any()


@pytest.mark.parametrize("make", [Shared, Relative])
def test_a_loss_that_is_not_finite_is_refused(make: type[Shared | Relative]) -> None:
    model = make()
    with torch.no_grad():
        model.body.weight[0, 0] = torch.nan
    model.body.requires_grad_(False)
    batch = {"inputs": torch.randn(2, 4, 6), "labels": torch.tensor([0, 1])}
    with pytest.raises(UserError, match=r"the loss of rows .* is nan: training diverged"):
        list(example_gradients(model, batch, {"body": model.body}, 1))
    assert not model.body.weight.requires_grad


@pytest.mark.parametrize("make", [Shared, Relative])
def test_frozen_layers_have_gradients_too(make: type[Shared | Relative]) -> None:
    model = make()
    model.body.requires_grad_(False)
    batch = {"inputs": torch.randn(2, 4, 6), "labels": torch.tensor([0, 1])}
    actual = dict(example_gradients(model, batch, {"body": model.body}, 1))
    assert actual["body"].dense().abs().sum() > 0
    assert not model.body.weight.requires_grad


class Dropped(Shared):
    """Its inputs are dropped in training."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: Tensor, labels: Tensor) -> Output:
        return super().forward(self.dropout(inputs), labels)


@pytest.mark.parametrize("training", [True, False])
def test_the_fisher_is_measured_without_dropout(training: bool) -> None:
    torch.manual_seed(0)
    model = Dropped()
    batch = {"inputs": torch.randn(6, 4, 6), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}

    def empty(weights: int) -> BlockFisher:
        return BlockFisher.zeros(weights, BLOCK, torch.device("cpu"))

    expected = empty(model.body.weight.numel())
    for _, gradients in example_gradients(model.eval(), batch, {"body": model.body}, 1):
        expected.add(gradients)
    found = measure(model.train(training), {"body": model.body}, [batch], empty)["body"]
    torch.testing.assert_close(found.total, expected.total)
    assert model.training is model.dropout.training is training


def least_rise(matrix: Tensor, weight: Tensor, stays: Tensor) -> Tensor:
    """The minimum of the quadratic over the remaining weights, from its normal equations."""
    moved = torch.zeros_like(weight)
    pull = matrix[stays][:, ~stays] @ weight[~stays]
    moved[stays] = weight[stays] + torch.linalg.solve(matrix[stays][:, stays], pull)
    return moved
