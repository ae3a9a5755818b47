"""The command `sparsekit shrink`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from csv_files import write_csv
from hub_seed import reviews
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.models.inspection import inspect
from sparsekit.models.loading import load_for_task
from sparsekit.shape.blocks import blocks
from sparsekit.shape.config import KEY
from sparsekit.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=64)


def command(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["shrink", *words])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [{"text": row["text"], "label": ["neg", "pos"][row["label"]]} for row in reviews(24, 0)]
    return str(write_csv(tmp_path_factory.mktemp("data") / "data.csv", rows))


def test_even_sizes_load_in_plain_transformers(teacher_folder: str, tmp_path: Path) -> None:
    output = tmp_path / "small"
    code, text = command(teacher_folder, "--neurons", "0.5", "-o", str(output))
    assert code == 0, text
    assert "neurons    64 -> 32" in text
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert model.config.intermediate_size == 32
    assert not hasattr(model.config, KEY)
    record = json.loads((output / "shrinking.json").read_text())
    assert record["after"]["neurons"] == [32, 32]
    assert record["before"]["parameters"] > record["after"]["parameters"]


@pytest.mark.parametrize("method", ["first_order", "obs"])
def test_uneven_sizes_load_as_a_student(
    teacher_folder: str, data: str, tmp_path: Path, method: str
) -> None:
    output = tmp_path / "small"
    shares = ["--neurons", "0.4", "--heads", "0.5", "--hidden", "0.25", "--global"]
    code, text = command(
        teacher_folder,
        *shares,
        "--method",
        method,
        "--data",
        data,
        "--rows",
        "16",
        "-o",
        str(output),
    )
    assert code == 0, text
    assert "hidden     32 -> 24" in text
    record = json.loads((output / "shrinking.json").read_text())
    assert (record["method"], record["global_ranking"], record["rows"]) == (method, True, 16)
    loaded, missing = load_for_task(output, TASK, ["neg", "pos"])
    assert not missing
    left = [block.heads for block in blocks(loaded.model)]
    assert sum(left) == 2
    config = AutoConfig.from_pretrained(output)
    assert [len(heads) for heads in getattr(config, KEY)["heads"]] == left
    assert all(layer.shape[1] <= 64 for layer in inspect(str(output)).layers)
    # And a second time, of what is left.
    again = tmp_path / "again"
    code, text = command(str(output), "--layers", "0.5", "-o", str(again))
    assert code == 0, text
    assert "layers     2 -> 1" in text
    assert not load_for_task(again, TASK, ["neg", "pos"])[1]


def test_global_ranks_the_neurons_of_all_layers_together(
    teacher_folder: str, tmp_path: Path
) -> None:
    uneven = tmp_path / "uneven"
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    # Norms are compared within a layer first, so only half of its neurons are small.
    model.get_parameter("bert.encoder.layer.0.intermediate.dense.weight").data[:32] *= 0.01
    shutil.copytree(teacher_folder, uneven)
    model.save_pretrained(uneven)
    left = {}
    for words in ([], ["--global"]):
        output = tmp_path / f"small{''.join(words)}"
        code, text = command(str(uneven), "--neurons", "0.25", *words, "-o", str(output))
        assert code == 0, text
        loaded, _ = load_for_task(output, TASK, ["neg", "pos"])
        left[len(words)] = [block.neurons for block in blocks(loaded.model)]
    assert left == {0: [48, 48], 1: [32, 64]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing is to be removed; set a share for some of --heads, --neurons"),
        (["--neurons", "1.0"], "--neurons 1 must be at least 0 and less than 1"),
        (["--heads", "0.01"], "--heads 0.01 removes none: there are 4"),
        (["--heads", "0.5", "--method", "obs"], "--method obs measures on texts: add --data"),
        (["--heads", "0.5", "--rows", "0"], "--rows 0 must be 1 or more"),
    ],
)
def test_bad_settings_are_named(
    teacher_folder: str, tmp_path: Path, words: list[str], message: str
) -> None:
    output = tmp_path / "small"
    code, text = command(teacher_folder, *words, "-o", str(output))
    assert code == 1
    assert message in text
    assert not output.exists()


def test_a_model_without_a_trained_head_is_refused(
    student_folder: str, data: str, tmp_path: Path
) -> None:
    encoder = tmp_path / "encoder"
    shutil.copytree(student_folder, encoder)
    AutoModel.from_pretrained(student_folder).save_pretrained(encoder)
    words = ["--heads", "0.5", "--method", "obs", "--data", data, "-o", str(tmp_path / "small")]
    code, text = command(str(encoder), *words)
    assert code == 1
    assert "needs the loss of a model trained for its task" in text
    assert "or use --method magnitude" in text
