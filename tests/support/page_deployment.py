"""Deployments for the tests of a page: small random classifiers with a tokenizer of word pieces."""

from __future__ import annotations

import json
import shutil
import string
import subprocess
from pathlib import Path
from typing import Any

from sparse_graphs import POSITIONS, VOCABULARY, write_graph
from tokenizers import BertWordPieceTokenizer

from sparsekit.runtime.tasks.file import write_task
from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers

RUNNER = Path(__file__).with_name("model_page.mjs")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def vocabulary() -> list[str]:
    letters = [*string.ascii_lowercase, *string.digits, *".,!?'-\u00fc"]
    words = ["the", "film", "is", "good", "bad", "##er", "##ing", "\u4e2d"]
    found = [*SPECIAL, *words, *letters, *(f"##{letter}" for letter in letters)]
    return found[:VOCABULARY] + [f"[unused{i}]" for i in range(VOCABULARY - len(found))]


def write_tokenizer(folder: Path, tokens: list[str], **settings: Any) -> None:
    made = BertWordPieceTokenizer({token: i for i, token in enumerate(tokens)}, **settings)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": POSITIONS}))


def write_deployment(folder: Path, model: str = "bert", **settings: Any) -> Path:
    """A deployment of two labels; `settings` are those of `write_graph`."""
    deployment = folder / "deployment"
    deployment.mkdir(parents=True)
    shutil.copy(write_graph(folder, model, **settings), deployment / "model.onnx")
    config = {"id2label": {"0": "neg", "1": "pos"}, "max_position_embeddings": POSITIONS}
    (deployment / "config.json").write_text(json.dumps(config))
    write_task(TextClassificationAnswers(), deployment)
    write_tokenizer(deployment, vocabulary())
    return deployment


def run_page(page: Path, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the page's own modules make of a request under Node; see model_page.mjs."""
    modules = folder / "modules"
    shutil.copytree(page, modules, dirs_exist_ok=True)
    # The browser is told by the script tag that these are modules.
    (modules / "package.json").write_text('{"type": "module"}')
    (folder / "request.json").write_text(json.dumps(request))
    command = ["node", str(RUNNER), str(modules), str(folder / "request.json")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(result.stdout)
    return found
