"""What the tests share: a cache of their own, tiny models, and the data beside the project."""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Collecting the tests imports everything, which takes a third less time without garbage
# collections; see pytest_collection_finish.
gc.disable()

# Before any library or fixture reads them: no test asks the real Hub or uses the user's caches.
_HOME = tempfile.mkdtemp(prefix="sparsekit-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = f"{_HOME}/huggingface"
os.environ["SPARSEKIT_CACHE"] = f"{_HOME}/sparsekit"

import hub_seed
import pytest
import tiny_training
from csv_files import write_csv
from hypothesis import settings
from project import GOLDEN

from sparsekit.sparseml.recipes.load import register_resolvers

# The same examples in each run, however long one takes on a busy machine. With the profile `search`
# (HYPOTHESIS_PROFILE=search) each run draws new ones.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))

# Tests compose conf/ as launch.py does.
register_resolvers()


def pytest_collection_finish() -> None:
    """Keep what is imported by now out of garbage collections, and begin with these.

    Each training collects twice, through accelerate, which took half of the time of a short one.
    """
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def seed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models and data under the seed's ids: `models/<id>`, `datasets/<id>`."""
    folder = tmp_path_factory.mktemp("seed")
    hub_seed.write(folder)
    return folder


@pytest.fixture(scope="session")
def student_folder(seed_folder: Path) -> str:
    """A 2-layer BERT of hidden size 32 whose encoder is 90 % zeros."""
    return str(seed_folder / "models" / hub_seed.STUDENT)


@pytest.fixture
def openvino_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU with AMX too, where bf16 would hide a graph that is slightly wrong."""
    monkeypatch.setattr("sparsekit.runtime.openvino.cpu_units", dict)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without a C compiler, and nothing remembered of one."""
    from sparsekit.kernels.errors import warn_of_no_compiler
    from sparsekit.kernels.library import is_available, library

    monkeypatch.setenv("CC", "no-such-compiler")
    for remembered in (library, is_available, warn_of_no_compiler):
        remembered.cache_clear()
    yield
    for remembered in (library, is_available, warn_of_no_compiler):
        remembered.cache_clear()


@pytest.fixture
def peer_stand_in(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """As if the peer environment were there: a program that says it has what it is asked for."""
    python = tmp_path_factory.mktemp("peer") / "python"
    python.write_text('#!/bin/sh\nfor name; do :; done; echo "$name"\n')
    python.chmod(0o755)
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", str(python))
    return str(python)


@pytest.fixture
def student(student_folder: str) -> tiny_training.LoadedModel:
    return tiny_training.load_student(student_folder)


@pytest.fixture
def rows(student: tiny_training.LoadedModel) -> tiny_training.Rows:
    return tiny_training.make_rows(student)


@pytest.fixture(scope="session")
def teacher_folder(seed_folder: Path) -> str:
    """A dense 2-label classifier with the student's vocabulary."""
    return str(seed_folder / "models" / hub_seed.TEACHER)


@pytest.fixture(scope="session")
def csv_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tiny reviews as csv files, one a split."""
    folder = tmp_path_factory.mktemp("csv")
    made = hub_seed.reviews(160, seed=0)
    files = {}
    for split, part in (("train", made[:96]), ("validation", made[96:128]), ("test", made[128:])):
        files[split] = str(write_csv(folder / f"{split}.csv", part))
    return files


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """SparseML's own outputs; see tests/golden/README.md."""
    return json.loads((GOLDEN / "golden.json").read_text())
