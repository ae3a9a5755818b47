"""SparseZoo stubs: from the Hub where it has the model, otherwise by the old client."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsekit.errors import UserError
from sparsekit.models import hub
from sparsekit.sparseml import zoo
from sparsekit.sparseml.recipes.text import text_of

PRUNED = "zoo:nlp/masked_language_modeling/obert-base/pytorch/huggingface/wikipedia_bookcorpus/"
UNKNOWN = "zoo:nlp/question_answering/none/pytorch/huggingface/squad/base-none"


def test_known_models_come_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(name: str, revision: str | None, patterns: list[str]) -> Path:
        asked.append(name)
        (tmp_path / "model.safetensors").touch()
        return tmp_path

    monkeypatch.setattr(hub, "_download", download)
    assert hub.fetch(f"{PRUNED}pruned90-none") == tmp_path
    assert hub.fetch(f"{PRUNED}pruned97-none?recipe=x") == tmp_path
    ids = [f"neuralmagic/oBERT-12-upstream-pruned-unstructured-{share}" for share in (90, 97)]
    assert asked == ids


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", "/nowhere/python")
    with pytest.raises(
        UserError, match=r"(?s)not installed: SPARSEKIT_PEER_PYTHON is.*give a Hub id"
    ):
        hub.fetch(UNKNOWN)


def script(folder: Path, text: str) -> str:
    """A replacement for the peer environment's Python."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def test_unknown_stubs_are_downloaded_by_the_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good = script(tmp_path, f"echo a banner; echo '\"{tmp_path}\"'")
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", good)
    assert hub.fetch(UNKNOWN) == tmp_path


def test_a_client_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(
        "SPARSEKIT_PEER_PYTHON", script(tmp_path, "echo the zoo is closed >&2; false")
    )
    with pytest.raises(
        UserError, match=r"cannot download zoo:nlp/.*the zoo is closed; known stubs"
    ):
        hub.fetch(UNKNOWN)


@pytest.mark.parametrize("answer", ["true", "echo null", "echo a banner"])
def test_a_client_that_names_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str
) -> None:
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", script(tmp_path, answer))
    with pytest.raises(
        UserError, match=r"cannot download zoo:nlp/.*it named no folder; known stubs"
    ):
        hub.fetch(UNKNOWN)


def test_recipes() -> None:
    stub = "zoo:nlp/sentiment_analysis/obert-base/pytorch/huggingface/sst2/pruned90_quant-none"
    assert zoo.shipped_recipe(stub) == "pruned90_quant"
    assert zoo.shipped_recipe(UNKNOWN) is None
    with pytest.raises(UserError, match="recipe=pruned90_quant trains the same way"):
        text_of(Path(stub))
