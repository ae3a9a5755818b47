"""Imports without garbage collections."""

from __future__ import annotations

import gc
import sys

import pytest

from sparsekit.cli.imports import uncollected


def test_collections_begin_after_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), uncollected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen


def test_nothing_is_frozen_in_a_process_at_work() -> None:
    assert "torch" in sys.modules
    frozen = gc.get_freeze_count()
    with uncollected():
        assert gc.isenabled()
    # What was frozen may have been deleted since.
    assert gc.get_freeze_count() <= frozen


def test_collections_that_are_off_stay_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
