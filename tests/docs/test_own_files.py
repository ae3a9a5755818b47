"""The files that the documentation lets a user write compose with the commands beside them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from project import CONF, ROOT

from sparsekit.config.plain import plain
from sparsekit.pipeline.plan import Plan

# A file's name in the text, and the block that follows it.
FILE = re.compile(r"`my_conf/([\w/]+\.yaml)`[^`]*```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(
    r"^(?:PYTHONPATH=\. )?sparsekit train --config-dir my_conf (.*)$", re.MULTILINE
)
MODULE = re.compile(r"Save it as `(\w+\.py)`.*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if FILE.search(page.read_text())]


def test_there_are_pages_with_files() -> None:
    assert {page.stem for page in PAGES} >= {"own-data", "own-recipe", "own-modifier"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_compose_with_its_files(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text()
    for name, content in FILE.findall(text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for name, content in MODULE.findall(text):
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    commands = COMMAND.findall(text)
    assert commands
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for command in commands:
            folders = f"hydra.searchpath=[file://{tmp_path}, file://{ROOT}]"
            overrides = [f"output_dir={tmp_path}", folders, *shlex.split(command, comments=True)]
            Plan.build(plain(compose("config", overrides)))
