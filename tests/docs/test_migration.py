"""The commands that the page on migration gives for SparseML's compose."""

from __future__ import annotations

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from project import CONF, GOLDEN, ROOT

PAGE = ROOT / "docs" / "how-to" / "migrate-from-sparseml.md"
ROW = re.compile(
    r"^\| `sparseml\.transformers\.(\w+) [^|]*\| `sparsekit train ([^`]*) \.\.\.`", re.M
)
COMMANDS = dict(ROW.findall(PAGE.read_text(encoding="utf-8")))
TASKS = {
    "text_classification": "TextClassification",
    "question_answering": "QuestionAnswering",
    "token_classification": "TokenClassification",
    "masked_language_modeling": "MaskedLM",
}


@pytest.mark.parametrize("command", TASKS)
def test_the_command_composes(command: str) -> None:
    words = COMMANDS[command].replace("FILE", str(GOLDEN / "seed_recipe.yaml"))
    overrides = [*shlex.split(words), "dataset.data_files.train=train"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides)
    assert cfg.task._target_.endswith(f".{TASKS[command]}")
    assert cfg.recipe.path == str(GOLDEN / "seed_recipe.yaml")
