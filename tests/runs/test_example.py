"""The text that "Try next" offers: of the user's own data, safe in a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsekit.runs.example import LONGEST, TEXTS, example_texts, reads_pairs
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.report import next_commands


def run_of(tmp_path: Path, texts: list[str], seconds: list[str] | None = None) -> RunFolder:
    (tmp_path / "evaluation").mkdir()
    columns = {"text": texts, "text_pair": pa.array(seconds or [None] * len(texts), pa.string())}
    pq.write_table(pa.table(columns), tmp_path / "evaluation" / "validation.parquet")
    return RunFolder(tmp_path)


def test_a_short_text_of_the_data_that_a_shell_reads_as_it_is(tmp_path: Path) -> None:
    texts = ["My parcel didn't arrive & I want my money back.", "--json", "a\nb", "", "\x1b[31m"]
    (text,) = example_texts(run_of(tmp_path, texts), 1)
    assert text == texts[0]
    (line, *_) = next_commands({"export": {"path": "x"}}, "RUN", [text])
    assert shlex.split(line)[-1] == text


def test_a_long_text_is_cut_at_a_word(tmp_path: Path) -> None:
    (text,) = example_texts(run_of(tmp_path, ["word " * 400]), 1)
    assert 60 < len(text) <= LONGEST
    assert text.endswith("word")


def test_pairs_come_from_one_row(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["first text", "a much longer text"], ["its second", "another one"])
    assert example_texts(run, 2) == ["first text", "its second"]
    lines = next_commands({"export": {"path": "x"}}, "RUN", ["first text", "its second"])
    assert lines[0].endswith("predict RUN --pairs 'first text' 'its second'")


@pytest.mark.parametrize("content", [None, b"", b"PAR1"])
def test_without_a_readable_row_another_text_is_offered(
    tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / "evaluation").mkdir()
    if content is not None:
        (tmp_path / "evaluation" / "validation.parquet").write_bytes(content)
    assert example_texts(RunFolder(tmp_path), 2) == TEXTS
    assert example_texts(None, 1) == TEXTS[:1]


def test_pairs_that_are_read_as_single_texts(tmp_path: Path) -> None:
    """As embeddings read them: their evaluation has a row for each text."""
    run = RunFolder(tmp_path)
    run.config_file.write_text("dataset: {text_columns: [a, b]}\n")
    run.evaluations.mkdir()
    assert reads_pairs(run)
    pq.write_table(pa.table({"text": ["one text", "another"]}), run.evaluation("validation"))
    assert not reads_pairs(run)
