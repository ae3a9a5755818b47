"""Lines of CoNLL files that are words, and those that are comments."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsekit.data.conll import ConllDataset
from sparsekit.data.schema import Column

COLUMNS = [Column("tokens", "key", lists=True), Column("tags", "key", lists=True, role="target")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# O\nhello O\nBob B-PER\n\nHi O\n# O\n", [["#", "hello", "Bob"], ["Hi", "#"]]),
        ("# newdoc\n# id 7\nHi O\nBob B-PER\n\n# B-PER\nHi O\n", [["Hi", "Bob"], ["#", "Hi"]]),
        ("# a comment\nHi X O\n\n# X O\nBob X O\n", [["Hi"], ["#", "Bob"]]),
        ("-DOCSTART- -X- O\n\n# comment\n#\tO\nHi\tO\n", [["#", "Hi"]]),
    ],
)
def test_a_comment_is_none_that_reads_as_a_word(
    tmp_path: Path, text: str, words: list[list[str]]
) -> None:
    path = tmp_path / "rows.conll"
    path.write_text(text)
    read = ConllDataset(data_files={"train": str(path)}).raw(COLUMNS)
    assert read["train"]["tokens"][:] == words
