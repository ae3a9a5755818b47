"""The methods of one-shot pruning, and the command `sparsekit prune`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from csv_files import write_csv
from safetensors.torch import load_file
from tiny_bert import tiny_bert
from torch import nn
from transformers import AutoModelForSequenceClassification, BertModel
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.models.inspection import inspect
from sparsekit.models.loading import load_for_task
from sparsekit.oneshot.calibration import ROWS, draw
from sparsekit.oneshot.methods import OneShot, input_norms, prune, row_ranks
from sparsekit.sparsity.prunable import prunable
from sparsekit.sparsity.surgeon import measure
from sparsekit.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=64)

FAST = ["--num-grads", "16", "--rows", "16", "--num-recomputations", "2"]


def command(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["prune", *words])
    return result.exit_code, result.output


# Methods


def layer(weight: list[list[float]]) -> nn.Linear:
    made = nn.Linear(len(weight[0]), len(weight), bias=False)
    made.weight = nn.Parameter(torch.tensor(weight))
    return made


class OneLayer(nn.Module):
    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        self.linear = layer(weight)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.linear(input_ids)


def test_wanda_weighs_by_the_inputs_and_ignores_padding() -> None:
    model = OneLayer([[1.0, 1.1, 1.2, 1.3], [4.0, 3.0, 2.0, 1.0]])
    ones = torch.ones(1, 2, 4)
    ones[0, 0] = torch.tensor([10.0, 1.0, 5.0, 1.0])
    ones[0, 1] = 1000.0  # padding
    batch = {"input_ids": ones, "attention_mask": torch.tensor([[1, 0]])}

    def calibration(count: int, seed: int, multiple: int) -> Any:
        return iter([{**batch, "labels": torch.tensor([0])}])

    layers = {"linear": model.linear}
    norms = input_norms(model, layers, calibration(1, 0, 1))["linear"]
    torch.testing.assert_close(norms, torch.tensor([10.0, 1.0, 5.0, 1.0]))
    prune(model, layers, calibration, OneShot(sparsity=0.5, method="wanda"))
    # Each row keeps two: by the product, not by the size alone.
    expected = torch.tensor([[1.0, 0.0, 1.2, 0.0], [4.0, 0.0, 2.0, 0.0]])
    assert torch.equal(model.linear.weight, expected)


class Loss:
    def __init__(self, loss: torch.Tensor) -> None:
        self.loss = loss


class Regression(nn.Module):
    """Each row is one vector, and its loss the square of the layer's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3, bias=False)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: Any = None
    ) -> Loss:
        return Loss(self.linear(input_ids).square().sum(-1).mean())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "wanda", "rows": 24}, [(24, 5, 1)]),
        (
            {"method": "obs", "num_grads": 12, "grad_batch_size": 2, "num_recomputations": 2},
            [(24, 5, 2), (24, 1_000_005, 2)],
        ),
    ],
)
def test_rows_are_asked_for_by_the_settings(
    settings: dict[str, Any], expected: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, measured = [], list[int]()

    def calibration(count: int, seed: int, multiple: int) -> Any:
        asked.append((count, seed, multiple))
        rows = torch.randn(count, 1, 4, generator=torch.Generator().manual_seed(seed))
        ones = torch.ones(count, 1, dtype=torch.long)
        yield {"input_ids": rows, "attention_mask": ones, "labels": ones[:, 0]}

    def counted(*args: Any) -> Any:
        fishers = measure(*args)
        measured.extend(fisher.count for fisher in fishers.values())
        return fishers

    monkeypatch.setattr("sparsekit.oneshot.methods.measure", counted)
    model = Regression()
    config = OneShot(sparsity=0.5, seed=5, fisher_block_size=4, **settings)
    prune(model, {"linear": model.linear}, calibration, config)
    assert asked == expected
    # Each gradient is of `grad_batch_size` rows.
    assert measured == [count // multiple for count, _, multiple in expected if multiple > 1]
    assert int((model.linear.weight == 0).sum()) == 6


def test_ranks_of_blocks_are_those_of_their_means() -> None:
    scores = torch.tensor([[9.0, 0.0, 3.0, 3.0, 5.0, 2.0]])
    assert row_ranks(scores, 2).tolist() == [[2.0, 2.0, 0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize("everywhere", [True, False])
def test_magnitude_ranks_in_a_layer_or_over_all(everywhere: bool) -> None:
    layers = {"a": layer([[1.0, 2.0, 3.0, 4.0]]), "b": layer([[5.0, 6.0, 7.0, 8.0]])}
    prune(nn.Module(), layers, None, OneShot(sparsity=0.5, global_sparsity=everywhere))
    zeros = [int((made.weight == 0).sum()) for made in layers.values()]
    assert zeros == ([4, 0] if everywhere else [2, 2])


def test_rows_are_drawn_without_repetition_and_again_with_the_seed() -> None:
    rows: Any = [{"row": index, "text": "." * (index * 37 % 100)} for index in range(100)]

    def drawn(count: int, seed: int, multiple: int = 1) -> list[list[int]]:
        return [
            [row["row"] for row in batch]
            for batch in draw(rows, lambda batch: batch, count, seed, multiple)  # type: ignore
        ]

    flat = [row for batch in drawn(100, 3) for row in batch]
    assert sorted(flat) == list(range(100))
    assert drawn(50, 3) == drawn(50, 3) != drawn(50, 4)
    assert sum(map(len, drawn(250, 0))) == 250  # a second pass and a half
    assert all(len(batch) % 24 == 0 for batch in drawn(240, 0, 24))
    lengths = [[len(rows[row]["text"]) for row in batch] for batch in drawn(100, 3)]
    assert lengths == [list(range(100))[start : start + ROWS] for start in range(0, 100, ROWS)]


# The command


@pytest.mark.parametrize(
    ("options", "share"),
    [
        (["--sparsity", "0.8"], 0.8),
        (["--sparsity", "0.8", "--global"], 0.8),
        (["--sparsity", "0.7", "--pattern", "block4"], 0.7),
        (["--pattern", "2:4"], 0.5),
        (["--pattern", "1:4", "--sparsity", "0.75"], 0.75),
        (["--sparsity", "0.8", "--method", "wanda"], 0.8),
        (["--method", "wanda", "--pattern", "2:4"], 0.5),
        (["--sparsity", "0.75", "--method", "wanda", "--pattern", "block4"], 0.75),
        (["--sparsity", "0.8", "--method", "obs"], 0.8),
        (["--sparsity", "0.7", "--method", "obs", "--pattern", "block4", "--layer"], 0.7),
        (["--method", "obs", "--pattern", "2:4", "--num-recomputations", "1"], 0.5),
    ],
)
def test_a_checkpoint_is_pruned(
    options: list[str], share: float, teacher_folder: str, csv_files: dict[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "pruned"
    code, stderr = command(
        teacher_folder, *FAST, "--data", csv_files["train"], "-o", str(target), *options
    )
    assert code == 0, stderr
    assert stderr.splitlines()[-1] == f"pruned: {target}"
    actual = inspect(str(target))
    assert actual.sparsity == pytest.approx(share, abs=1e-3)
    for pattern in {"1:4", "2:4"}.intersection(options):
        assert all(made.pattern == pattern for made in actual.layers if made.prunable)
    weights = load_file(target / "model.safetensors")
    if "block4" in options:
        for name, weight in weights.items():
            if ".layer." in name and weight.ndim == 2:
                assert set((weight.reshape(-1, 4) == 0).sum(1).tolist()) <= {0, 4}
    if "wanda" in options and "--pattern" not in options:
        # Every row loses as much as every other, to one weight.
        weight = weights["bert.encoder.layer.0.attention.self.query.weight"]
        lost = (weight == 0).sum(1)
        assert int(lost.max() - lost.min()) <= 1
    assert (weights["classifier.weight"] != 0).all()
    AutoModelForSequenceClassification.from_pretrained(target)
    assert json.loads((target / "pruning.json").read_text())["source"] == teacher_folder


def test_obs_is_repeatable_and_nearer_to_the_dense_model(
    teacher_folder: str, csv_files: dict[str, str], tmp_path: Path
) -> None:
    pruned = []
    for method in ("obs", "obs", "magnitude"):
        target = tmp_path / f"{len(pruned)}"
        options = ["--method", method, "--sparsity", "0.6", "--global", "--num-grads", "96"]
        data = ["--data", csv_files["train"], "--num-recomputations", "1"]
        assert command(teacher_folder, *options, *data, "-o", str(target))[0] == 0
        pruned.append(load_file(target / "model.safetensors"))
    assert all(torch.equal(pruned[0][name], pruned[1][name]) for name in pruned[0])
    dense, _ = load_for_task(Path(teacher_folder), TASK, ["LABEL_0", "LABEL_1"])
    names = [f"{name}.weight" for name in prunable(dense.model)]
    with Path(csv_files["validation"]).open() as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    batch = dense.tokenizer(texts, padding=True, return_tensors="pt")
    logits = []
    for weights in (None, pruned[0], pruned[2]):
        if weights is not None:
            state = dense.model.state_dict()
            dense.model.load_state_dict(state | {name: weights[name] for name in names})
        with torch.no_grad():
            logits.append(dense.model.eval()(**batch).logits)
    assert (logits[1] - logits[0]).norm() < (logits[2] - logits[0]).norm()


@pytest.mark.parametrize("pooler", [True, False])
def test_a_pruned_copy_has_the_weights_of_its_checkpoint(tmp_path: Path, pooler: bool) -> None:
    """No classifier, and no pooler where the checkpoint has none: both would be random."""
    BertModel(tiny_bert(), add_pooling_layer=pooler).save_pretrained(tmp_path / "bert")
    code, stderr = command(
        str(tmp_path / "bert"), "--sparsity", "0.5", "-o", str(tmp_path / "pruned")
    )
    assert code == 0, stderr
    before = load_file(tmp_path / "bert" / "model.safetensors")
    assert load_file(tmp_path / "pruned" / "model.safetensors").keys() == before.keys()
    assert any("pooler" in name for name in before) == pooler


def test_what_follows_the_model_is_copied_where_it_still_fits(tmp_path: Path) -> None:
    """As sentence-transformers saves its pooling: a list of modules, and a folder for each."""
    source = tmp_path / "bert"
    BertModel(tiny_bert()).save_pretrained(source)
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 16}')
    (source / "modules.json").write_text('[{"idx": 1, "name": "1", "path": "1_Pooling"}]')
    pruned, smaller = tmp_path / "pruned", tmp_path / "smaller"
    code, stderr = command(str(source), "--sparsity", "0.5", "-o", str(pruned))
    assert code == 0, stderr
    for name in ("modules.json", "1_Pooling/config.json"):
        assert (pruned / name).read_text() == (source / name).read_text()
    words = ["shrink", str(source), "--hidden", "0.5", "-o", str(smaller)]
    shrunk = CliRunner().invoke(app, words)
    assert shrunk.exit_code == 0, shrunk.output
    assert not (smaller / "modules.json").exists() and not (smaller / "1_Pooling").exists()


def test_a_checkpoint_without_a_layer_is_not_pruned(tmp_path: Path) -> None:
    model = BertModel(tiny_bert(num_hidden_layers=2))
    kept = {name: w for name, w in model.state_dict().items() if "layer.1." not in name}
    model.save_pretrained(tmp_path / "bert", state_dict=kept)
    code, stderr = command(
        str(tmp_path / "bert"), "--sparsity", "0.5", "-o", str(tmp_path / "pruned")
    )
    assert code == 1
    assert "lacks the weights encoder.layer.1" in stderr
    assert not (tmp_path / "pruned").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "--sparsity is not set: add --sparsity 0.8"),
        (["--sparsity", "1.2"], "--sparsity 1.2 must lie between 0 and 1"),
        (["--sparsity", "0.8", "--pattern", "2:4"], "leave out --sparsity"),
        (["--sparsity", "0.8", "--pattern", "blocks"], "--pattern blocks is not one of"),
        (["--sparsity", "0.8", "--method", "obs"], "add --data FILE.csv"),
        (["--sparsity", "0.8", "--method", "wanda", "--global"], "leave out --global"),
        (["--sparsity", "0.8", "--damp", "0"], "--damp 0 must be above 0"),
        (["--sparsity", "0.8", "--num-grads", "0"], "--num-grads 0 must be 1 or more"),
        (["--sparsity=0.8", "--num-recomputations=0"], "--num-recomputations 0 must be 1 or more"),
        (["--sparsity=0.8", "--fisher-block-size=0"], "--fisher-block-size 0 must be 1 or more"),
        (
            ["--sparsity=0.8", "--method=obs", "--pattern=block4", "--fisher-block-size=50"],
            "must be a multiple of 4",
        ),
    ],
)
def test_wrong_options_are_named_before_anything_is_read(
    options: list[str], problem: str, tmp_path: Path
) -> None:
    code, stderr = command("no/such/model", *options, "-o", str(tmp_path / "pruned"))
    assert code == 1
    assert problem in stderr
    assert list(tmp_path.iterdir()) == []


def test_numbered_labels_are_taken_in_the_order_of_the_models(
    teacher_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = Path(shutil.copytree(teacher_folder, tmp_path / "named"))
    config = json.loads((named / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "bad", "1": "good"}, {"bad": 0, "good": 1}
    (named / "config.json").write_text(json.dumps(config))
    words = ["--method", "obs", "--sparsity", "0.5", "--rows", "8", "--num-grads", "8"]
    for first in (0, 1):
        rows = [{"text": f"it is {i}", "label": first + i % 2} for i in range(8)]
        data = str(write_csv(tmp_path / f"{first}.csv", rows))
        code, text = command(str(named), *words, "--data", data, "-o", str(tmp_path / f"o{first}"))
        if first == 0:
            assert code == 0, text
            assert "are taken for bad, good, in the order of" in caplog.text
        else:
            assert code == 1 and "has the labels 1, 2" in text


def test_wrong_data_and_models_are_named(
    teacher_folder: str, student_folder: str, csv_files: dict[str, str], tmp_path: Path
) -> None:
    labelled = [{"text": f"it is {i}", "label": name} for i, name in enumerate("abcabc")]
    three = str(write_csv(tmp_path / "three.csv", labelled))
    unlabelled = str(write_csv(tmp_path / "unlabelled.csv", [{"text": "it"}]))
    one = str(write_csv(tmp_path / "one.csv", [{"text": "it", "label": "a"}] * 4))
    target = tmp_path / "pruned"
    obs = ["--method", "obs", "--sparsity", "0.8", "-o", str(target)]
    for words, problem in (
        ([teacher_folder, *obs, "--data", one], f"has 1 label in {one}; at least 2 are needed"),
        ([teacher_folder, *obs, "--data", three], "has the labels a, b, c"),
        ([teacher_folder, *obs, "--data", str(tmp_path / "none.csv")], "--data: there is no file"),
        (
            [teacher_folder, *obs, "--data", unlabelled],
            "no column label; it has text; set --label-column",
        ),
        ([teacher_folder, *obs, "--data", three, "--max-length", "1"], "--max-length 1 leaves no"),
        ([teacher_folder, *obs, "--data", str(tmp_path / "x.txt")], "--data: there is no file"),
        (
            [teacher_folder, *obs, "--data", csv_files["train"], "--max-length", "9999"],
            "--max-length 9999 is more than the",
        ),
        ([student_folder, *obs, "--data", csv_files["train"]], "zeros already"),
        ([str(tmp_path), *obs, "--data", csv_files["train"]], "holds no config.json"),
        ([teacher_folder, "--sparsity", "0.8", "-o", str(tmp_path)], "exists already"),
    ):
        code, stderr = command(*words)
        assert code == 1, stderr
        assert problem in stderr, stderr
        assert "problems" not in stderr, stderr
        assert not target.exists()


def test_texts_are_truncated_to_the_positions_of_a_model(
    teacher_folder: str, csv_files: dict[str, str], tmp_path: Path
) -> None:
    small = tmp_path / "small"
    shutil.copytree(teacher_folder, small)
    BertModel(tiny_bert(vocab_size=400, max_position_embeddings=8)).save_pretrained(small)
    options = ["--sparsity", "0.8", "--method", "wanda", "-o", str(tmp_path / "pruned"), "--data"]
    with open(csv_files["train"], newline="") as file:
        texts = [{"text": row["text"]} for row in csv.DictReader(file)]
    # Wanda looks at no label.
    code, stderr = command(str(small), *options, str(write_csv(tmp_path / "texts.csv", texts)))
    assert code == 0, stderr
    wrong = str(write_csv(tmp_path / "wrong.csv", [{"review": "it", "label": 0.5}]))
    _, stderr = command(str(small), *options[:-3], "--data", wrong)
    assert "no column text; it has review, label; set --text-column" in stderr


def test_obs_needs_a_trained_model(csv_files: dict[str, str], tmp_path: Path) -> None:
    BertModel(tiny_bert()).save_pretrained(tmp_path / "bert")
    code, stderr = command(
        str(tmp_path / "bert"), "--method", "obs", "--sparsity", "0.95",
        "--data", csv_files["train"], "-o", str(tmp_path / "pruned"),
    )  # fmt: skip
    assert code == 1
    assert "is a BertModel; fine-tune it first, or use --method wanda" in stderr
