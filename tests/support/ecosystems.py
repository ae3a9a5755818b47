"""Other tools that load deployments: where they are installed, and deployments of every task.

Tests skip, and say how to install the tool, where it is not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hub_seed
import pytest
import torch
import yaml
from project import ROOT
from run_folder import MAX_LENGTH, quantization, write_run
from transformers import (
    AutoTokenizer,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
)

from sparsekit.onnx.export import ExportConfig, export

SCRIPTS = ROOT / "tests" / "ecosystems"
TASKS = {
    "tokens": (BertForTokenClassification, "token_classification.TokenClassification", {}),
    "questions": (BertForQuestionAnswering, "question_answering.QuestionAnswering", {}),
    "embeddings": (BertModel, "embedding.Embedding", {}),
}
ENTITIES = ["O", "B-WORD", "I-WORD"]


def texts(rows: int = 20) -> list[str]:
    """Short reviews, none of them twice."""
    return [str(row["text"]) for row in hub_seed.reviews(2 * rows, seed=5)][:rows]


def deployments(folder: Path, student: str) -> dict[str, Path]:
    """A deployment of each task, in its run folder: an int8 classifier and dense others."""
    found = {"texts": write_run(folder / "texts", student, quantization())}
    tokenizer = AutoTokenizer.from_pretrained(found["texts"] / "model")
    for name, (kind, target, fields) in TASKS.items():
        torch.manual_seed(0)
        labels = dict(enumerate(ENTITIES)) if name == "tokens" else {0: "LABEL_0", 1: "LABEL_1"}
        model = kind(
            hub_seed.small_bert(
                tokenizer,
                id2label=labels,
                label2id={label: index for index, label in labels.items()},
            )
        )
        with torch.no_grad():
            # New weights are so small that every text would get the same outputs.
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(8)
        found[name] = folder / name
        model.save_pretrained(found[name] / "model")
        tokenizer.save_pretrained(found[name] / "model")
        node = {"_target_": f"sparsekit.tasks.{target}", **fields}
        data = {"metrics": [], "max_length": MAX_LENGTH}
        if name == "questions":
            data["doc_stride"] = 8
        config = {"task": node, "dataset": data}
        (found[name] / "config.yaml").write_text(yaml.safe_dump(config))
    for run in found.values():
        export(run, ExportConfig(verify=False))
    return found


def ecosystem_python() -> Path:
    """The Python of `make ecosystem-env`, or `SPARSEKIT_ECOSYSTEM_PYTHON`; skips without one."""
    named = os.environ.get("SPARSEKIT_ECOSYSTEM_PYTHON")
    made = ROOT / "build" / "ecosystems"
    if named is None and not (made / ".installed").is_file():
        pytest.skip("needs Optimum and tritonclient: make ecosystem-env")
    return Path(named or made / "bin" / "python")


def js_package(name: str) -> Path:
    """The folder of a package of `make js-env`; skips where it or Node.js is not installed."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js 20 or newer: apt-get install nodejs npm")
    folder = Path(os.environ.get("SPARSEKIT_JS", ROOT / "build" / "js"))
    if not (folder / ".installed").is_file():
        pytest.skip(f"needs {name} from npm: make js-env")
    return folder / "node_modules" / name


def run_json(home: Path, *command: object) -> Any:
    """The JSON that a program prints, without a network and with its caches below `home`."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "cache")}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
