"""A model folder of transformers.js, which is also the form of a model on the Hub for it.

    repository/NAME/config.json       which names the file to load
                    tokenizer.json ...
                    onnx/model.onnx

transformers.js reads `onnx/` and nothing else by default. The graph is that of the deployment; of
an embedding model that averages tokens it also gives their vectors. Imports no torch.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from sparsekit.errors import UserError
from sparsekit.onnx.layouts.source import Source
from sparsekit.onnx.layouts.token_vectors import add_token_vectors
from sparsekit.onnx.sums import NAME as SUMS
from sparsekit.onnx.sums import write_sums

# Where transformers.js looks for the graph.
GRAPH = "onnx/model.onnx"
# The key of config.json with the settings of transformers.js. Its dtype is the suffix of the file
# and not the types in it: fp32 is the file without suffix. Browsers load another one by default.
SETTINGS_KEY = "transformers.js_config"
SETTINGS = {"dtype": "fp32"}
# The Hub's names of the tasks whose models transformers.js has classes for.
TASKS = ("text-classification", "token-classification", "question-answering", "feature-extraction")
# A regression model of pairs is a text classifier with one label there.
_SAME = {"text-ranking": "text-classification"}


def write(source: Source, repository: Path) -> Path:
    """Write the folder of the model; returns it.

    Raises UserError where it exists, and for a task that transformers.js has no class for.
    """
    tag = source.task.card(source.labels, bool(source.task.pairs)).pipeline_tag
    if _SAME.get(tag, tag) not in TASKS:
        raise UserError(
            f"transformers.js has no class for the task {tag!r} of {source.folder}, only for "
            f"{', '.join(TASKS)}; run {source.graph} with onnxruntime-web instead"
        )
    target = repository / source.name
    if target.exists():
        raise UserError(f"{target} exists; remove it, or choose another name: --name NAME")
    repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=repository) as scratch:
        new = Path(scratch) / source.name
        kept = shutil.ignore_patterns(source.graph.name, SUMS)
        shutil.copytree(source.folder, new, ignore=kept)
        add_settings(new / "config.json")
        (new / GRAPH).parent.mkdir()
        shutil.copyfile(source.graph, new / GRAPH)
        if tag == "feature-extraction":
            # The pipeline of that name pools the vectors of tokens itself.
            add_token_vectors(new / GRAPH)
        write_sums(new, [file for file in new.rglob("*") if file.is_file()])
        new.rename(target)
    return target


def add_settings(file: Path) -> None:
    """Name the file that transformers.js loads in a model's `config.json`, unless it is named."""
    config = json.loads(file.read_text(encoding="utf-8"))
    config.setdefault(SETTINGS_KEY, SETTINGS)
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
