"""Work that is done once: kept whole or not at all, by one process at a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from sparsekit.cache import cached, content_hash, way_out
from sparsekit.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_fails_leaves_nothing(folder: Path) -> None:
    def half(target: Path) -> None:
        (target / "first").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("kind", "key", half)
    assert [path.name for path in (folder / "kind").iterdir()] == ["key.lock"]
    again = cached("kind", "key", lambda target: (target / "first").write_text("whole"))
    assert (again / "first").read_text() == "whole"


def test_one_makes_it_while_others_wait(folder: Path) -> None:
    made, found = [], []

    def make(target: Path) -> None:
        made.append(target)
        time.sleep(0.2)

    threads = [
        threading.Thread(target=lambda: found.append(cached("kind", "key", make))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert found == [folder / "kind" / "key"] * 4


def test_a_cache_that_cannot_be_written_names_the_variable(folder: Path) -> None:
    folder.write_text("a file in its place")
    with pytest.raises(UserError, match=r"cannot be written.*set SPARSEKIT_CACHE"):
        cached("kind", "key", lambda target: None)


def test_parts_are_told_apart() -> None:
    assert content_hash(["ab", "c"]) != content_hash(["a", "bc"]) != content_hash(["abc"])


def test_what_is_damaged_in_the_cache_can_be_made_again(folder: Path, tmp_path: Path) -> None:
    kept = cached("kind", "key", lambda target: (target / "model").mkdir())
    assert way_out(kept / "model") == f"remove {kept}, and it is made again"
    assert way_out(tmp_path / "elsewhere") == "fetch or save it again"
