"""The cache of compiled kernels: usable without a compiler, checked before loading."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiler import needs_compiler

from sparsekit.cache import SUMS
from sparsekit.kernels import compiler, dropout
from sparsekit.kernels.errors import KernelError
from sparsekit.kernels.library import library
from sparsekit.kernels.sources import FLAGS, sources
from sparsekit.kernels.store import compiled_file

pytestmark = needs_compiler

SOURCES = {"answer.c": "int answer(void) { return 42; }\n"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiled(cache: Path) -> Path:
    return compiled_file(SOURCES, ())


def test_a_cached_kernel_needs_no_compiler(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert compiled_file(SOURCES, ()) == compiled
    with pytest.raises(KernelError, match="there is no C compiler 'cc'"):
        compiled_file(SOURCES, ("-O1",))


def test_runtime_sparse_runs_without_a_compiler_once_compiled(cache: Path) -> None:
    """In separate processes, which share nothing but the cache."""
    program = "from sparsekit.runtime.sparse import runtime; print(runtime.SparseRuntime.missing())"
    command = [sys.executable, "-c", program]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    without = os.environ | {"PATH": "/nowhere"}
    second = subprocess.run(command, capture_output=True, text=True, check=True, env=without)
    assert (first.stdout, second.stdout) == ("None\n", "None\n")


@pytest.mark.parametrize(
    "change", ["a source", "a name", "a flag", "instructions", "the compiler", "the CPU"]
)
def test_every_input_of_the_compilation_has_its_own_entry(
    change: str, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, flags, instructions = dict(SOURCES), (), ("-march=native",)
    if change == "a source":
        sources = {"answer.c": "int answer(void) { return 43; }\n"}
    elif change == "a name":
        sources = {"other.c": SOURCES["answer.c"]}
    elif change == "a flag":
        flags = ("-fno-math-errno",)
    elif change == "instructions":
        instructions = ()
    elif change == "the compiler":
        monkeypatch.setenv("CC", "cc -g")
    else:
        monkeypatch.setattr("sparsekit.kernels.store.cpu_flags", lambda: "sse2")
    assert compiled_file(sources, flags, instructions) != compiled


def cut(path: Path) -> None:
    os.truncate(path, 100)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
@pytest.mark.parametrize("name", ["kernel.so", SUMS])
def test_a_damaged_library_is_compiled_again(
    name: str, damage: object, compiled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = compiled.read_bytes()
    damage(compiled.with_name(name))  # type: ignore[operator]
    assert compiled_file(SOURCES, ()).read_bytes() == whole
    assert f"{compiled.parent} was not used" in caplog.text


def test_a_damaged_library_is_not_loaded_without_a_compiler(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = dataclasses.replace(
        dropout.KERNEL
    )  # A new object, since loaded kernels are cached by object.
    cut(compiled_file(sources(kernel.folder), FLAGS[kernel.folder]))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(KernelError, match="there is no C compiler 'cc'"):
        library(kernel)


@pytest.mark.parametrize("whose", ["file", "folder", "kernels"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_a_library_that_others_can_write_is_refused(whose: str, mode: int, compiled: Path) -> None:
    path = {"file": compiled, "folder": compiled.parent, "kernels": compiled.parents[1]}[whose]
    path.chmod(path.stat().st_mode | mode)
    with pytest.raises(KernelError, match=f"{path} can be written by other users; remove "):
        compiled_file(SOURCES, ())


def test_a_cache_in_a_world_writable_folder_is_refused(cache: Path, compiled: Path) -> None:
    cache.chmod(0o777)
    with pytest.raises(KernelError, match=f"{cache} can be written by other users"):
        compiled_file(SOURCES, ())
    # As /tmp is: with the sticky bit users cannot replace the files of others.
    cache.chmod(0o1777)
    assert compiled_file(SOURCES, ()) == compiled


def test_a_library_of_another_user_is_refused(
    compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(KernelError, match=f"{compiled.parents[1]} belongs to another user"):
        compiled_file(SOURCES, ())


def test_it_is_private_with_any_umask(cache: Path) -> None:
    before = os.umask(0)
    try:
        # The cache may be readable by others, but only this user may write to what is loaded.
        cache.mkdir(mode=0o755)
        path = compiled_file(SOURCES, ())
    finally:
        os.umask(before)
    for private in (path, path.parent, path.parents[1]):
        assert not private.stat().st_mode & 0o022


def test_the_compiler_version_is_recorded(compiled: Path) -> None:
    assert (compiled.parent / "compiler.txt").read_text() == compiler.version(["cc"])
