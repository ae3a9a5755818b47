"""The sensitivity of layers, the shares of zeros chosen by it, and the command."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families import enlarge
from tiny_bert import tiny_bert
from transformers import BertForSequenceClassification
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.errors import UserError
from sparsekit.oneshot import sensitivity_plot, sensitivity_report
from sparsekit.oneshot.allocation import allocate, predicted
from sparsekit.oneshot.sensitivity import (
    LayerSensitivity,
    input_ranges,
    mean_loss,
    pruned_layers,
    sensitivities,
)
from sparsekit.oneshot.sensitivity_report import Sensitivity, _dense_folder, write
from sparsekit.recipe.recipe import Recipe
from sparsekit.recipe.source import values_of_file
from sparsekit.sparsity.prunable import prunable


def made(name: str, weights: int, *growth: float) -> LayerSensitivity:
    shares = (0.5, 0.8, 0.9)
    pruned = dict(zip(shares, growth, strict=True))
    return LayerSensitivity(name=name, weights=weights, pruned=pruned, int8=0.0)


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = tiny_bert(num_hidden_layers=2, max_position_embeddings=16)
    model = BertForSequenceClassification(config).eval()
    enlarge(model)
    return model


@pytest.fixture(scope="module")
def batches() -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    return [
        {
            "input_ids": torch.randint(1, 50, (rows, 8)),
            "attention_mask": torch.ones(rows, 8, dtype=torch.long),
            "labels": torch.randint(0, 2, (rows,)),
        }
        for rows in (6, 3)
    ]


def test_the_loss_is_that_of_all_rows(model, batches) -> None:
    together = {
        name: torch.cat([batch[name] for batch in batches]) for name in ("input_ids", "labels")
    }
    expected = float(model(**together).loss.detach())
    assert mean_loss(model, batches) == pytest.approx(expected, rel=1e-5)


class Tagger(torch.nn.Module):
    """Answers with the mean of the labels in the place of a loss."""

    def forward(self, input_ids, labels):
        return SimpleNamespace(loss=labels[labels >= 0].float().mean())


def test_the_loss_of_tokens_is_that_of_all_that_have_a_label() -> None:
    """One batch has a single label, 3, another three, 1, and the last one none."""
    labels = [[[3, -100], [-100, -100]], [[1, 1], [-100, 1]], [[-100, -100]]]
    batches = [
        {"input_ids": torch.zeros(len(each), 2), "labels": torch.tensor(each)} for each in labels
    ]
    assert mean_loss(Tagger(), batches) == pytest.approx(6 / 4)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    """As that of a layer which overflows once it is pruned: nothing would look cheaper."""
    batches = [{"input_ids": torch.zeros(1, 2), "labels": torch.tensor([[torch.inf, torch.inf]])}]
    with pytest.raises(UserError, match="the loss of the rows is inf"):
        mean_loss(Tagger(), batches)


def test_each_layer_is_measured_alone_and_left_as_it_was(model, batches) -> None:
    layers = prunable(model)
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    found = list(sensitivities(model, layers, batches, [0.9, 0.5]))
    assert [each.name for each in found] == list(layers)
    assert all(list(each.pruned) == [0.5, 0.9] for each in found)
    assert all(torch.equal(layers[name].weight, weight) for name, weight in before.items())
    assert not any(layer._forward_pre_hooks for layer in layers.values())
    name = "bert.encoder.layer.1.output.dense"
    smallest = before[name].abs().flatten().kthvalue(round(0.9 * before[name].numel())).values
    with torch.no_grad():
        layers[name].weight *= before[name].abs() > smallest
        expected = mean_loss(model, batches)
        layers[name].weight.copy_(before[name])
    [measured] = [each for each in found if each.name == name]
    assert measured.pruned[0.9] == pytest.approx(expected - mean_loss(model, batches), rel=1e-3)
    # Rounding to int8 changes little, and something.
    assert all(abs(each.int8) < 1e-2 for each in found)
    assert sum(abs(each.int8) for each in found) > 1e-5


def test_ranges_are_those_of_every_batch(model, batches) -> None:
    layers = prunable(model)
    low, high = input_ranges(model, layers, batches)["bert.encoder.layer.0.attention.self.query"]
    with torch.no_grad():
        inputs = [model.bert.embeddings(batch["input_ids"]) for batch in batches]
    assert float(low) == pytest.approx(min(float(each.min()) for each in inputs))
    assert float(high) == pytest.approx(max(float(each.max()) for each in inputs))


def test_a_chosen_total_is_met_at_the_least_predicted_loss() -> None:
    layers = [
        made("robust", 100, 0.0, 0.01, 0.02),
        made("tender", 100, 0.3, 0.9, 2.0),
        made("large", 400, 0.05, 0.2, 0.6),
    ]
    chosen = allocate(layers, 0.7)
    zeros = sum(chosen[layer.name] * layer.weights for layer in layers)
    assert zeros == pytest.approx(0.7 * 600, abs=0.05)
    assert chosen["robust"] == 0.9 > chosen["large"] > chosen["tender"]
    cost = sum(predicted(layer, chosen[layer.name]) for layer in layers)
    # No other split on a grid of hundredths is cheaper.
    for robust in range(0, 91, 5):
        for tender in range(0, 91, 5):
            large = (0.7 * 600 - robust - tender) / 400
            if 0 <= large <= 0.9:
                shares = {"robust": robust / 100, "tender": tender / 100, "large": large}
                other = sum(predicted(layer, shares[layer.name]) for layer in layers)
                assert cost <= other + 1e-6


def test_noise_that_falls_is_no_gain() -> None:
    """A layer whose loss falls by chance does not pay for zeros elsewhere."""
    layer = made("lucky", 10, -0.4, 0.1, 0.05)
    assert predicted(layer, 0.5) == 0.0
    assert predicted(layer, 0.9) == pytest.approx(0.1)


def test_more_zeros_than_were_measured_are_refused() -> None:
    with pytest.raises(UserError, match=r"must lie above 0 and be at most 0\.9, .*--share"):
        allocate([made("a", 10, 0, 0, 0)], 0.95)


def test_pruned_layers_together_have_the_shares(model) -> None:
    layers = prunable(model)
    shares = {name: 0.25 if "query" in name else 0.75 for name in layers}
    with pruned_layers(layers, shares):
        for name, layer in layers.items():
            assert float((layer.weight == 0).float().mean()) == pytest.approx(shares[name])


def test_a_model_with_a_few_zeros_is_dense(model, tmp_path: Path) -> None:
    """In half precision the smallest weights of a dense model become 0."""
    weight = model.bert.encoder.layer[0].output.dense.weight
    with torch.no_grad():
        weight[0, 0] = 0
    model.save_pretrained(tmp_path / "dense")
    assert _dense_folder(str(tmp_path / "dense")) == tmp_path / "dense"
    with torch.no_grad():
        weight.zero_()
    model.save_pretrained(tmp_path / "pruned")
    with pytest.raises(UserError, match=r"is pruned \(.*% zeros\) already"):
        _dense_folder(str(tmp_path / "pruned"))


def command(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["sensitivity", *words])
    return result.exit_code, result.output


def test_the_command(teacher_folder: str, csv_files: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "out"
    words = ["--data", csv_files["train"], "--rows", "16", "--share", "0.5", "--share", "0.9"]
    code, text = command(teacher_folder, *words, "--sparsity", "0.6", "-o", str(target))
    assert code == 0, text
    assert text.splitlines()[-1] == f"sensitivity: {target}"
    found = json.loads((target / "sensitivity.json").read_text())
    assert found["rows"] == 16 and found["sparsity"] == 0.6
    assert set(found["allocation"]) == {layer["name"] for layer in found["layers"]}
    weights = sum(layer["weights"] for layer in found["layers"])
    zeros = sum(layer["weights"] * found["allocation"][layer["name"]] for layer in found["layers"])
    assert zeros / weights == pytest.approx(0.6, abs=1e-4)
    assert (target / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    recipe = Recipe.build(values_of_file(target / "recipe" / "by_sensitivity.yaml", {}))
    assert recipe.problems() == []
    final = recipe.modifiers["obs"].final_sparsity
    named = {name.removesuffix(".weight"): float(s) for s, names in final.items() for name in names}
    assert named == found["allocation"]


def test_the_recipe_prunes_each_layer_to_its_share(model, tmp_path: Path) -> None:
    """It is from_dense: no dropout, a scale for each channel, OBS."""
    layers = prunable(model)
    shares = {name: 0.25 if "query" in name else 0.75 for name in layers}
    weights = sum(layer.weight.numel() for layer in layers.values())
    total = sum(shares[name] * layer.weight.numel() for name, layer in layers.items()) / weights
    found = Sensitivity(
        model="model", rows=1, loss=0.5, layers=[], sparsity=total, allocation=shares
    )
    write(found, tmp_path)
    file = tmp_path / "recipe" / "by_sensitivity.yaml"
    by_obs = Recipe.build(values_of_file(file, {"obs_gradients": 8, "obs_global": True}))
    assert by_obs.problems() == []
    assert "pruning" not in by_obs.modifiers
    assert by_obs.modifiers["obs"].global_sparsity is False
    assert "obs" in Recipe.build(values_of_file(file, {})).modifiers
    recipe = Recipe.build(values_of_file(file, {"obs_gradients": 0}))
    assert recipe.problems() == []
    assert "obs" not in recipe.modifiers and recipe.modifiers["dropout"].p == 0
    assert recipe.modifiers["quantization"].per_channel_weights is True
    pruning = recipe.modifiers["pruning"]
    assert by_obs.modifiers["obs"].final_sparsity == pruning.final_sparsity
    pruning.attach(model)
    pruning.update(pruning.end)
    pruning.constrain()
    zeros = {name: int((layer.weight == 0).sum()) for name, layer in layers.items()}
    for name, layer in layers.items():
        assert zeros[name] / layer.weight.numel() == pytest.approx(shares[name], abs=1e-3)
    assert sum(zeros.values()) / weights == pytest.approx(total, abs=1e-3)
    with pytest.raises(UserError, match=r"params \[\] and final_sparsity 0\.9"):
        Recipe.from_file(file, final_sparsity=0.9)


def test_each_row_is_measured_once(
    teacher_folder: str, csv_files: dict[str, str], tmp_path: Path
) -> None:
    words = ["--data", csv_files["train"], "--rows", "1000000", "--share", "0.5"]
    code, text = command(teacher_folder, *words, "-o", str(tmp_path))
    assert code == 0, text
    rows = len(Path(csv_files["train"]).read_text().splitlines()) - 1
    assert json.loads((tmp_path / "sensitivity.json").read_text())["rows"] == rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--share", "1.5"], "--share 1.5 must lie between 0 and 1"),
        (["--share", "0.5", "--share", "0.5"], "one is repeated"),
        (["--sparsity", "0.97"], "more than the largest share that is measured, 0.95"),
        (["--rows", "0"], "--rows 0 must be 1 or more"),
        (["--text-column", "nothing"], "nothing"),
        (["-o", __file__], "is a file; choose a folder"),
    ],
)
def test_mistakes(
    words: list[str], message: str, teacher_folder: str, csv_files: dict[str, str]
) -> None:
    code, text = command(teacher_folder, "--data", csv_files["train"], *words)
    assert code == 1
    assert message in text


def test_without_matplotlib_nothing_is_measured(
    csv_files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity_report, "measure", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, sensitivity_plot.__name__)
    code, text = command("model", "--data", csv_files["train"], "-o", str(tmp_path / "out"))
    assert code == 1
    assert text == "error: sparsekit sensitivity needs matplotlib: pip install 'sparsekit[plot]'\n"


def test_a_picture_that_fails_costs_no_result(
    csv_files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plot(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    found = Sensitivity(
        model="model",
        rows=1,
        loss=0.5,
        layers=[made("dense", 10, 0.1, 0.2, 0.3)],
        sparsity=0.8,
        allocation={"dense": 0.8},
        allocated=0.1,
        uniform=0.2,
    )
    monkeypatch.setattr(sensitivity_report, "measure", lambda *_, **__: found)
    monkeypatch.setattr(sensitivity_plot, "plot", plot)
    code, text = command("model", "--data", csv_files["train"], "-o", str(tmp_path))
    assert code == 1 and "no space left" in text
    assert "Growth of the loss" in text and "recipe=by_sensitivity" in text
    assert (tmp_path / "recipe" / "by_sensitivity.yaml").is_file()
