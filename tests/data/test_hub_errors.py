"""Data sets of the Hub that cannot be loaded: one sentence with what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsekit.data.datasets import HubDataset
from sparsekit.errors import UserError


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("name", "what"), [(None, "needs dataset.name"), ("zz", "has no configuration 'zz'")]
)
def test_the_configurations_of_a_data_set_are_listed(
    tmp_path: Path, name: str | None, what: str, streamed: bool
) -> None:
    listed = "".join(f"- config_name: {each}\n  data_files: {each}.csv\n" for each in ("a", "b-2"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    for each in ("a", "b-2"):
        (tmp_path / f"{each}.csv").write_text("text,label\na,1\n")
    source = HubDataset(path=str(tmp_path), name=name)
    with pytest.raises(UserError, match=rf"{what}; set dataset\.name to one of a, b-2$"):
        next(source.blocks([], 1)) if streamed else source.raw([])


def test_the_cause_is_named_where_files_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "train-0.csv").write_text("text,label\na,1\n")
    (tmp_path / "train-1.csv").write_text("text,label\na,b\n")
    with pytest.raises(UserError, match=r"from the Hub: (?!An error).*; check the id"):
        HubDataset(path=str(tmp_path)).raw([])
