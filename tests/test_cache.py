"""Work that is done once: kept whole or not at all, by one process at a time."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from sparsekit.cache import ABANDONED, SUMS, cached, content_hash, damage, file_hash, way_out
from sparsekit.errors import UserError

CACHE_OF_THE_TESTS = os.environ["SPARSEKIT_CACHE"]


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


def make_files(target: Path) -> None:
    (target / "weights").write_text("whole weights")
    (target / "inner").mkdir()
    (target / "inner" / "vocabulary").write_text("words")


@pytest.mark.parametrize("name", ["weights", "inner/vocabulary", SUMS])
@pytest.mark.parametrize("harm", ["cut", "emptied", "flipped", "removed"])
def test_a_damaged_entry_is_made_again(
    folder: Path, name: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    entry = cached("kind", "key", make_files)
    whole = {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()}
    file, content = entry / name, (entry / name).read_bytes()
    if harm == "removed":
        file.unlink()
    else:
        changed = {"cut": content[:-3], "emptied": b"", "flipped": b"~" + content[1:]}
        file.write_bytes(changed[harm])
    assert cached("kind", "key", make_files) == entry
    assert {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()} == whole
    assert f"{entry} was not used" in caplog.text
    assert [path.name for path in entry.parent.iterdir() if path.is_dir()] == ["key"]


def test_sums_do_not_lead_out_of_the_entry(folder: Path) -> None:
    entry = cached("kind", "key", make_files)
    (folder / "outside").write_text("x")
    (entry / SUMS).write_text(json.dumps({"../../outside": file_hash(folder / "outside")}))
    assert damage(entry) == "../../outside was changed or cut short"


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    """Its own key's at once; those of other keys by age, unless their lock is held."""
    kind = folder / "kind"
    names = ("key.aaaa", "old.bbbb", "busy.cccc", "new.dddd")
    for name in names:
        (kind / name).mkdir(parents=True)
        if name != "new.dddd":
            os.utime(kind / name, (time.time() - 2 * ABANDONED,) * 2)
    with FileLock(kind / "busy.lock"):
        cached("kind", "key", make_files)
    left = {path.name for path in kind.iterdir() if path.is_dir()}
    assert left == {"key", "busy.cccc", "new.dddd"}


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o2770])
def test_an_entry_has_the_permissions_of_its_folder(folder: Path, mode: int) -> None:
    (folder / "kind").mkdir(parents=True)
    (folder / "kind").chmod(mode)
    entry = cached("kind", "key", make_files)
    for path in (entry, entry / "inner"):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    for path in (entry / "weights", entry / "inner" / "vocabulary", entry / SUMS):
        assert stat.S_IMODE(path.stat().st_mode) == mode & 0o666
    lock = (folder / "kind" / "key.lock").stat()
    assert stat.S_IMODE(lock.st_mode) == mode & 0o666


def test_ten_processes_make_one_entry(folder: Path, tmp_path: Path) -> None:
    """Ten jobs of a sweep on one empty cache: one works, and all see its files."""
    program = (
        "import sys, time; from pathlib import Path; from sparsekit.cache import cached\n"
        "def make(target):\n"
        "    Path(sys.argv[1]).open('a').write('made\\n'); time.sleep(0.3)\n"
        "    (target / 'rows').write_text('x' * 1000)\n"
        "print(len((cached('kind', 'key', make) / 'rows').read_text()))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "made.txt")]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(10)]
    assert [job.communicate(timeout=100)[0] for job in jobs] == ["1000\n"] * 10
    assert (tmp_path / "made.txt").read_text() == "made\n"


def test_parts_are_told_apart() -> None:
    assert len({content_hash(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"])}) == 3


def test_what_is_damaged_in_the_cache_can_be_made_again(folder: Path, tmp_path: Path) -> None:
    kept = cached("kind", "key", lambda target: (target / "model").mkdir())
    assert way_out(kept / "model") == f"remove {kept}, and it is made again"
    assert way_out(tmp_path / "elsewhere") == "fetch or save it again"


def test_the_tests_use_a_cache_of_their_own() -> None:
    """Fixtures of a module and commands too, which read the variable before any test runs."""
    assert Path(CACHE_OF_THE_TESTS).is_relative_to(tempfile.gettempdir())
    assert Path(os.environ["HF_HOME"]).is_relative_to(tempfile.gettempdir())
