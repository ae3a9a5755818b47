"""Each family works as `docs/architectures.md` says, or is refused with the sentence there."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import HEADER, PAGE, WORKS, read, refusals, row, write
from families import FAMILIES, Family, write_checkpoint
from family_walk import COLUMNS, walk
from project import ROOT

from sparsekit.models.loading import read_config
from sparsekit.onnx.preflight import export_problem

# Walked in the quick tests too: shared layers.
QUICK = ("ALBERT",)
# One of each kind that some step treats in its own way; the others by `make test-exhaustive`.
SLOW = (
    *("DistilBERT", "RoBERTa", "MPNet", "DeBERTa-v2, v3", "EuroBERT", "ConvBERT", "XLNet"),
    *(
        "ModernBERT, Ettin",
        "Longformer",
        "BigBird (sparse)",
        "Llama, padded on the left",
        "GPT-2",
        "T5",
    ),
)
# Of the steps in a row of the table.
CELLS = {name: 2 + index for index, name in enumerate(COLUMNS)}


def marks(name: str) -> list[pytest.MarkDecorator]:
    if name in QUICK:
        return []
    return [pytest.mark.slow] if name in SLOW else [pytest.mark.slow, pytest.mark.exhaustive]


EVERY = [pytest.param(family, id=family.name, marks=marks(family.name)) for family in FAMILIES]


@pytest.mark.parametrize("family", EVERY)
def test_the_row_of_a_family(family: Family, teacher_folder: str, tmp_path: Path) -> None:
    result = walk(family, teacher_folder, tmp_path)
    assert (row(family, result), refusals(family, result)) == read()[family.name]


def test_the_kinds_are_families() -> None:
    assert {*QUICK, *SLOW} <= {family.name for family in FAMILIES}


def test_the_page_is_what_its_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, entries = PAGE.read_text(encoding="utf-8"), read()
    assert HEADER in written and entries.keys() == {family.name for family in FAMILIES}
    assert len(FAMILIES) > 40
    monkeypatch.setattr("architectures.PAGE", tmp_path / "page.md")
    write(entries)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == written


def test_the_readme_counts_what_works() -> None:
    rows = [line.split(" | ") for line, _ in read().values()]
    verified, sparse = (
        sum(row[CELLS[step]] == WORKS for row in rows) for step in ("verify", "sparse")
    )
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"Of {len(FAMILIES)} families of models" in readme
    assert f"{verified} are pruned, quantized, exported and verified" in readme
    assert f"{sparse} of them run on `runtime=sparse`" in readme


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_the_config_refuses_is_on_the_page(family: Family, tmp_path: Path) -> None:
    problem = export_problem(read_config(write_checkpoint(family, tmp_path / "checkpoint")))
    said = [line for line in read()[family.name][1] if "export" in line.partition(":")[0]]
    assert problem is None or any(problem in line for line in said)
