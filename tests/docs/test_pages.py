"""The Python in the documentation runs."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest
from project import GOLDEN, ROOT
from tiny_training import load_student, make_rows, recipe, trainer

from sparsekit.recipe.recipe import Recipe

# A Python block, and the comment above it that says whether it is run here.
BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TESTED = "tested"


def blocks(page: Path) -> list[tuple[str, str]]:
    """The comment and the code of each Python block of a page."""
    return [(found[1] or "", found[2]) for found in BLOCK.finditer(page.read_text())]


def runnable(page: Path) -> list[str]:
    return [code for comment, code in blocks(page) if comment.startswith(TESTED)]


def test_every_python_block_says_whether_it_is_tested() -> None:
    found = [(page, comment) for page in PAGES for comment, _ in blocks(page)]
    assert len(found) >= 3
    for page, comment in found:
        assert re.match(r"tested|not tested: \w", comment), page


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda p: p.stem)
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A page may use what a run folder holds.
    shutil.copytree(GOLDEN / "old_run", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    # As a module, which dataclasses look up to resolve their annotations.
    (tmp_path / "page_of_the_documentation.py").write_text("\n".join(runnable(page)))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("page_of_the_documentation")
    monkeypatch.delitem(sys.modules, "page_of_the_documentation")


def test_the_modifier_of_the_documentation_trains(
    student_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = runnable(ROOT / "docs" / "how-to" / "own-modifier.md")
    (tmp_path / "l2sp.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)

    free = distance_from_start(student_folder, tmp_path / "free", None)
    regularized = distance_from_start(student_folder, tmp_path / "regularized", 10.0)
    monkeypatch.delitem(sys.modules, "l2sp")

    assert 0 < regularized < 0.5 * free


def distance_from_start(student: str, folder: Path, strength: float | None) -> float:
    """Squared distance that training moves the encoder, with the modifier or without it."""
    loaded = load_student(student)
    encoder = {n: p for n, p in loaded.model.named_parameters() if ".layer." in n and p.ndim == 2}
    before = {name: parameter.detach().clone() for name, parameter in encoder.items()}
    values = recipe(num_epochs=1, qat_start=None).values
    if strength is not None:
        values["modifiers"]["l2sp"] = {"_target_": "l2sp.L2SP", "strength": strength}
    trainer(folder, loaded, make_rows(loaded), Recipe.build(values, trusted=True)).train()
    return sum(float((p.detach() - before[n]).square().sum()) for n, p in encoder.items())
