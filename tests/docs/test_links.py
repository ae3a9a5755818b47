"""Files that the documentation and the code name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project import ROOT

FOLDERS = ("benchmarks", "conf", "docs", "experiments", "hydra_plugins", "sparsekit", "tests")
SUFFIXES = (".py", ".yaml", ".c", ".h", ".md")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in SUFFIXES and "golden" not in path.parts
)
# The pages that MkDocs does not check.
PLAIN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PROSE = [*PLAIN, *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PLAIN, ids=lambda page: page.stem)
def test_relative_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_source_files_that_the_documentation_names_exist() -> None:
    named = [
        (page, name[0] or name[1])
        for page in PROSE
        for name in re.findall(
            r"`([\w.]+(?:/[\w.]+)+\.py)`|\b(benchmarks/\w+\.py)", page.read_text()
        )
    ]
    assert len(named) > 20
    folders = (ROOT, ROOT / "sparsekit")
    missing = [(p.name, name) for p, name in named if not any((f / name).exists() for f in folders)]
    assert missing == []


def test_pages_that_the_code_names_exist() -> None:
    named = [
        (path, name)
        for path in FILES
        for name in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text())
    ]
    assert len(named) > 5
    assert [(path.name, name) for path, name in named if not (ROOT / name).exists()] == []
