"""Quantizers beside the weights: transformers loads without a word, sparsekit reads both files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from run_folder import quantization, write_run
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from sparsekit.models.hub import QUANTIZERS
from sparsekit.models.inspection import inspect
from sparsekit.models.quantizers import QUANTIZER, WEIGHTS, saved_state, separate_quantizers
from sparsekit.onnx.trace import load_model
from sparsekit.tasks.text_classification import TextClassification


@pytest.fixture
def model(tmp_path: Path, student_folder: str) -> Path:
    return write_run(tmp_path / "run", student_folder, quantization(), separate=False) / "model"


def test_both_files_together_are_the_whole_state(model: Path) -> None:
    before, listed = load_file(model / WEIGHTS), inspect(str(model)).as_dict()
    assert any(QUANTIZER in name for name in before)
    separate_quantizers(model)
    assert not any(QUANTIZER in name for name in load_file(model / WEIGHTS))
    after = saved_state(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    # What reads the folder sees the same.
    assert inspect(str(model)).as_dict()["layers"] == listed["layers"]
    assert load_model(model, TextClassification())[1].keys() == before.keys()
    assert not list(model.glob("*.unfinished"))


def test_transformers_loads_it_without_a_warning(
    model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `transformers.pipeline` does; of a folder as version 0.1 saved it, it warns."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    transformers_logging.set_verbosity_warning()

    def warned() -> bool:
        caplog.clear()
        AutoModelForSequenceClassification.from_pretrained(model)
        return "UNEXPECTED" in caplog.text

    assert warned()
    separate_quantizers(model)
    assert not warned()


def test_an_earlier_models_quantizers_do_not_stay(model: Path) -> None:
    separate_quantizers(model)
    save_file(load_file(model / WEIGHTS), model / WEIGHTS, metadata={"format": "pt"})
    separate_quantizers(model)
    assert not (model / QUANTIZERS).exists()
