"""A model folder may name its own code, which is never run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sparse_graphs import write_graph

from sparsekit.errors import UserError
from sparsekit.models.loading import read_config
from sparsekit.onnx.trace import load_model
from sparsekit.tasks.text_classification import TextClassification


def test_code_in_a_folder_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto_map` names classes in files of the folder."""
    write_graph(tmp_path, "bert_relu")
    model = tmp_path / "model"
    config = json.loads((model / "config.json").read_text())
    names = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    (model / "own.py").write_text("raise SystemExit('the code was run')\n")

    def asked(*_: object) -> str:
        raise AssertionError("asked whether to run the code")

    monkeypatch.setattr("builtins.input", asked)
    for kind in ("bert", "own"):
        text = json.dumps(config | {"auto_map": names, "model_type": kind})
        (model / "config.json").write_text(text)
        if kind == "bert":
            load_model(model, TextClassification())
            read_config(model)
            continue
        with pytest.raises(UserError, match=r"cannot load the model"):
            load_model(model, TextClassification())
        with pytest.raises(UserError, match=r"cannot read .*config.json"):
            read_config(model)
