"""Each promise of the pages on reliability and security names tests that are there."""

from __future__ import annotations

import re

import pytest
from project import ROOT

ROW = re.compile(r"^\| (?!promise|---)(.+) \| (.+) \|$", re.MULTILINE)
FILE = re.compile(r"`((?:tests|benchmarks)/[\w/]+\.py)`")


@pytest.mark.parametrize("page", ["reliability.md", "security.md"])
def test_each_promise_names_a_test(page: str) -> None:
    rows = ROW.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert len(rows) > 10
    for promise, shown_by in rows:
        files = FILE.findall(shown_by)
        assert files, promise
        for name in files:
            assert (ROOT / name).is_file(), f"{promise}: {name}"
