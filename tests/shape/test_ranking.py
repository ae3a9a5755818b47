"""Scores of structures: what they mean, in which order structures go, and how many."""

from __future__ import annotations

import pytest
import torch
from shaped import batch, classifier
from transformers import BertForTokenClassification

from sparsekit.errors import ConfigError, UserError
from sparsekit.shape.blocks import blocks
from sparsekit.shape.choice import Shares, choose
from sparsekit.shape.kept import Kept
from sparsekit.shape.masking import structure_masks
from sparsekit.shape.ranking import (
    METHODS,
    Ranking,
    by_surgeon,
    compensate,
    damped,
    layer_norm,
    rank,
)
from sparsekit.shape.removal import remove
from sparsekit.shape.shrink import Shrink, shrink
from sparsekit.shape.statistics import measure


def labelled(rows: int = 4) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    batches = []
    for _ in range(rows // 2):
        found = batch()
        found["input_ids"] = torch.randint(5, 400, (2, 9), generator=generator)
        batches.append(found | {"labels": torch.randint(0, 2, (2,), generator=generator)})
    return batches


def test_first_order_is_the_derivative_of_the_loss_by_a_factor() -> None:
    model, batches = classifier(), labelled(2)
    statistics = measure(model, batches)
    block = blocks(model)[1]
    found = statistics.heads[1]
    assert found is not None
    each = []
    for row in range(2):
        single = {name: values[row : row + 1] for name, values in batches[0].items()}
        factors = torch.ones(4, requires_grad=True)
        hook = block.linear("attention.output.dense").register_forward_pre_hook(
            lambda _, inputs, factors=factors: (inputs[0] * factors.repeat_interleave(8),)
        )
        each.append(torch.autograd.grad(model(**single).loss, factors)[0].abs())
        hook.remove()
    torch.testing.assert_close(found.gates.magnitude, torch.stack(each).mean(0))


def test_statistics_are_those_of_single_rows_however_many_tokens_are_labelled() -> None:
    torch.manual_seed(0)
    model = BertForTokenClassification(classifier().config).eval()
    ids, labels = torch.randint(5, 400, (3, 9)), torch.randint(0, 2, (3, 9))
    labels[0, 1:], labels[2] = -100, -100
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    each = [{name: values[row : row + 1] for name, values in rows.items()} for row in range(3)]
    together, apart = measure(model, [rows]), measure(model, each)
    for one, other in (
        (together.heads[1], apart.heads[1]),
        (together.neurons[0], apart.neurons[0]),
    ):
        assert one is not None and other is not None
        assert one.gates.magnitude.isfinite().all() and one.gates.magnitude.all()
        torch.testing.assert_close(one.gates.magnitude, other.gates.magnitude)
        torch.testing.assert_close(one.output_fisher, other.output_fisher)
        torch.testing.assert_close(one.moments, other.moments)
    torch.testing.assert_close(together.hidden.square, apart.hidden.square)


@pytest.mark.parametrize("training", [True, False])
def test_statistics_are_measured_without_dropout(training: bool) -> None:
    model, batches = classifier(), labelled()
    expected = measure(model, batches)
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    for dropout in dropouts:
        dropout.p = 0.5
    found = measure(model.train(training), batches)
    torch.testing.assert_close(found.hidden.square, expected.hidden.square)
    for one, other in zip(
        found.heads + found.neurons, expected.heads + expected.neurons, strict=True
    ):
        assert one is not None and other is not None
        torch.testing.assert_close(one.moments, other.moments)
        torch.testing.assert_close(one.output_fisher, other.output_fisher)
    assert {module.training for module in (model, *dropouts)} == {training}


def test_a_loss_that_is_not_finite_ranks_nothing() -> None:
    model = classifier()
    with torch.no_grad():
        model.get_parameter("classifier.weight")[0, 0] = float("inf")
    with pytest.raises(UserError, match=r"the loss of rows .* is (nan|inf): training diverged"):
        measure(model, labelled(2))


@pytest.mark.parametrize("method", METHODS)
def test_structures_of_zeros_go_first_and_cost_nothing(method: str) -> None:
    model = classifier()
    kept = Kept.all(model)
    some = Kept(
        kept.layers,
        (torch.tensor([1, 2, 3]), *kept.heads[1:]),
        (*kept.neurons[:2], torch.arange(16, 64)),
        kept.hidden,
    )
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in structure_masks(model, some).items():
            parameters[name].mul_(mask)
    rankings = rank(model, method, None if method == "magnitude" else measure(model, labelled()))
    assert rankings.heads[0].order[0] == 0
    assert rankings.heads[0].losses[1] == pytest.approx(0, abs=1e-6)
    assert set(rankings.neurons[2].order[:16].tolist()) == set(range(16))
    assert rankings.neurons[2].losses[16] == pytest.approx(0, abs=1e-6)
    for ranking in (*rankings.heads, *rankings.neurons, rankings.hidden, rankings.layers):
        assert sorted(ranking.order.tolist()) == list(range(len(ranking.order)))
        assert (ranking.losses.diff() >= -1e-6).all()


def test_obs_knows_what_the_others_can_take_over() -> None:
    model = classifier()
    block = blocks(model)[0]
    with torch.no_grad():
        # Neurons 5 and 9 compute the same, so that one of them is free.
        for parameter in (
            block.linear("intermediate.dense").weight,
            block.linear("intermediate.dense").bias,
        ):
            parameter[9] = parameter[5]
        block.linear("output.dense").weight[:, [5, 9]] = 2.0
    statistics = measure(model, labelled(32))
    found = statistics.neurons[0]
    assert found is not None
    ranking = by_surgeon(block.linear("output.dense").weight, found, 1)
    first, last = sorted(ranking.order.tolist().index(neuron) for neuron in (5, 9))
    assert first < 50 and last > 60
    norms = rank(model, "magnitude").neurons[0].order.tolist()
    assert {norms.index(5), norms.index(9)} == {62, 63}
    assert ranking.losses[-1] > 0
    before = model(**batch()).logits
    kept = Kept.all(model)
    neurons = (torch.tensor([i for i in range(64) if i != 9]), *kept.neurons[1:])
    compensate(model, statistics, kept.heads, neurons)
    remove(model, Kept(kept.layers, kept.heads, neurons, kept.hidden))
    torch.testing.assert_close(model(**batch()).logits, before, rtol=0, atol=0.02)


def test_norms_of_half_precision_weights_have_no_ties() -> None:
    model = classifier().half()
    half, full = rank(model, "magnitude"), rank(model.float(), "magnitude")
    for one, other in zip(
        (*half.heads, *half.neurons, half.hidden, half.layers),
        (*full.heads, *full.neurons, full.hidden, full.layers),
        strict=True,
    ):
        assert one.order.tolist() == other.order.tolist()


@pytest.mark.parametrize("path", ["output.dense", "attention.output.dense"])
def test_obs_costs_what_the_best_weights_without_the_structures_lose(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsekit.shape.ranking.STEPS", 16)  # Four of the 64 neurons at a time.
    model = classifier()
    statistics = measure(model, labelled(32))
    heads = path.startswith("attention")
    found = (statistics.heads if heads else statistics.neurons)[1]
    assert found is not None
    weight = blocks(model)[1].linear(path).weight.detach()
    group = 8 if heads else 1
    ranking = by_surgeon(weight, found, group)
    full, moments = weight.double(), damped(found.moments)
    units = len(ranking.order)
    for count in range(units // 4, units + 1, units // 4):
        kept = ranking.kept(units - count)
        stay = (kept[:, None] * group + torch.arange(group)).flatten()
        best = torch.zeros_like(full)
        best[:, stay] = torch.linalg.solve(moments[stay][:, stay], moments[stay] @ full.T).T
        change = best - full
        rise = float((found.output_fisher * ((change @ moments) * change).sum(1)).sum()) / 2
        assert float(ranking.losses[count]) == pytest.approx(rise, rel=1e-4)


def test_shrinking_leaves_the_least_squares_weights_of_what_stays() -> None:
    model = classifier()
    statistics = measure(model, labelled(32))
    config = Shrink(heads=0.5, neurons=0.5, method="obs")
    rankings = rank(model, "obs", statistics)
    kept = choose(model, rankings, config.shares, ranks_globally=False)
    expected = []
    for index, block in enumerate(blocks(model)):
        for path, found, units, size in (
            ("attention.output.dense", statistics.heads[index], kept.heads[index], 8),
            ("output.dense", statistics.neurons[index], kept.neurons[index], 1),
        ):
            assert found is not None
            stay = (units[:, None] * size + torch.arange(size)).flatten()
            moments, full = damped(found.moments), block.linear(path).weight.detach().double()
            best = torch.linalg.lstsq(moments[stay][:, stay], moments[stay] @ full.T).solution.T
            assert not torch.allclose(best, full[:, stay], rtol=0, atol=0.01)
            expected.append(best.float())
    shrink(model, config, rankings, statistics)
    found_weights = [
        block.linear(path).weight.detach()
        for block in blocks(model)
        for path in ("attention.output.dense", "output.dense")
    ]
    for weight, best in zip(found_weights, expected, strict=True):
        torch.testing.assert_close(weight, best, rtol=1e-3, atol=1e-4)


def test_shares_are_of_each_layer() -> None:
    model = classifier()
    shares = Shares(heads=0.5, neurons=0.7, hidden=0.25, layers=0.4)
    kept = choose(model, rank(model, "magnitude"), shares, ranks_globally=False)
    assert [len(heads) for heads in kept.heads] == [2, 2, 2]
    assert [len(neurons) for neurons in kept.neurons] == [16, 16, 16]
    assert (len(kept.hidden), len(kept.layers)) == (24, 2)


def test_layers_are_ranked_together() -> None:
    model = classifier()
    rankings = rank(model, "magnitude")
    cheap = Ranking.by_score(torch.full((4,), 0.01))
    rankings.heads[1] = cheap
    kept = choose(model, rankings, Shares(heads=1 / 3, neurons=0.5), ranks_globally=True)
    assert [len(heads) for heads in kept.heads] == [4, 0, 4]
    assert {len(neurons) % 8 for neurons in kept.neurons} == {0}


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "mpnet"])
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_adds_almost_nothing_goes_first(model_type: str, method: str) -> None:
    model = classifier(model_type)
    block = blocks(model)[1]
    with torch.no_grad():
        for path in (block.layout.attention_output, block.layout.output):
            block.linear(path).weight.mul_(1e-3)
    ranking = rank(model, method, None if method == "magnitude" else measure(model, labelled()))
    assert ranking.layers.order[0] == 1
    cheapest, *others = ranking.layers.losses.diff().tolist()
    assert cheapest < 0.1 * min(others)


def test_the_size_of_a_layer_is_that_of_its_products() -> None:
    model = classifier(layers=1)
    (block,) = blocks(model)
    with torch.no_grad():
        block.linear("output.dense").weight.zero_()
    value = block.linear("attention.self.value").weight.detach()
    output = block.linear("attention.output.dense").weight.detach()
    products = [output[:, f : f + 8] @ value[f : f + 8] for f in range(0, 32, 8)]
    expected = torch.stack(products).norm()
    assert layer_norm(block) == pytest.approx(float(expected), rel=1e-5)


def test_a_share_too_small_is_refused() -> None:
    model = classifier()
    with pytest.raises(ConfigError, match=r"heads 0\.1 removes none: there are 12"):
        choose(model, rank(model, "magnitude"), Shares(heads=0.1), ranks_globally=False)


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_a_share_out_of_range_is_refused(value: float) -> None:
    assert "must be at least 0 and less than 1" in Shares(neurons=value).problems("--")[0]
    assert "nothing is to be removed; set a share for some of --heads" in Shares().problems("--")[0]
    (found,) = Shares().problems(names=("heads", "neurons"))
    assert found.endswith("set a share for some of heads, neurons")
