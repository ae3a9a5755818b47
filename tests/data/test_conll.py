"""Lines of CoNLL files that are words, and those that are comments."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsekit.data.conll import ConllDataset
from sparsekit.data.schema import Column
from sparsekit.errors import UserError

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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "10\u00a0000 O\nb\u202fc X\nthe\u3000end O\n",
            ["10\u00a0000", "b\u202fc", "the\u3000end"],
        ),
        ("New York\tB-LOC\n 1 \t \tO\r\n", ["New York", "1"]),
        ("a  O\n b O \n", ["a", "b"]),
        # A line of blanks ends a sentence, whatever their kind.
        ("a\tO\n-DOCSTART- -X- -X- O\n \u00a0\n# a comment\nb O\n", ["a", "b"]),
    ],
)
def test_tabs_and_plain_blanks_separate_columns(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    path = tmp_path / "rows.conll"
    path.write_text(text)
    read = ConllDataset(data_files={"train": str(path)}).raw(COLUMNS)["train"]
    assert [word for row in read["tokens"] for word in row] == words


@pytest.mark.parametrize(
    "text",
    ["# id\nin O\nNew York B-LOC\n", "# id\nin\tO\nthe\tDT\tO\n", "# id\na\tN\tO\nb\tO\n"],
)
def test_lines_have_as_many_columns_as_the_first(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.conll"
    path.write_text(text)
    with pytest.raises(UserError, match=r"conll, line 3: '.*' has \d columns, and line 2 has \d;"):
        ConllDataset(data_files={"train": str(path)}).raw(COLUMNS)
