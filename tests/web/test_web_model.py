"""The page's encoder and head, run by Node, have the logits of runtime=sparse."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_deployment import run_page, write_deployment
from sparse_graphs import VOCABULARY

from sparsekit.errors import UserError
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.web.packed import Tensors
from sparsekit.web.write import MODEL, pack_model, write_page

MISSING = [tool for tool in ("emcc", "node", "cc") if shutil.which(tool) is None]
needs_tools = pytest.mark.skipif(
    bool(MISSING),
    reason=f"{' and '.join(MISSING)} missing (Debian: apt-get install emscripten nodejs gcc)",
)
NAMES = ("input_ids", "attention_mask", "token_type_ids")
LENGTHS = (1, 3, 4, 5, 16, 17, 31, 32, 33, 100, 128, 129, 280)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "int8": ("bert", {}),
    "denser": ("bert", {"sparsity": 0.3}),
    "float32": ("bert", {"quantized": False}),
    "attention": ("bert", {"quantize_attention": True}),
    "channels": ("bert", {"per_channel_weights": True}),
    "relu": ("bert_relu", {}),
    "tanh": ("bert_tanh", {}),
    "distilbert": ("distilbert", {}),
    "roberta": ("roberta", {}),
}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_deployment(tmp_path_factory.mktemp("bert"))


@needs_tools
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_sparse_runtime(name: str, tmp_path: Path) -> None:
    """But for the order of float32 additions; see test_sparse_runtime.py."""
    model, settings = MODELS[name]
    deployment = write_deployment(tmp_path, model, **settings)
    write_page(deployment, tmp_path / "page", "A test")
    random = np.random.default_rng(0)
    ids = [random.integers(5, VOCABULARY, length) for length in LENGTHS]
    answer = run_page(tmp_path / "page", {"ids": [each.tolist() for each in ids]}, tmp_path)
    assert "error" not in answer, answer
    for runtime in (SparseRuntime, OnnxRuntime):
        reference = runtime(deployment / "model.onnx", 1)
        expected = [
            reference.run(dict(zip(NAMES, (row, row * 0 + 1, row * 0), strict=True)))[0]
            for row in (each[None] for each in ids)
        ]
        difference = np.abs(np.array(answer["logits"]) - expected).max(axis=1)
        assert np.median(difference) < 1e-5
        assert (difference < 1e-4).mean() > 0.6
        assert difference.max() < (1e-4 if name == "float32" else 0.05)


@needs_tools
def test_the_logits_of_texts(deployment: Path, tmp_path: Path) -> None:
    texts = ["The film is good.", "bad", "", "Filming the bad film. " * 40]
    write_page(deployment, tmp_path / "page", "A test")
    answer = run_page(tmp_path / "page", {"texts": texts}, tmp_path)
    encoder = TextEncoder(deployment)
    encodings = encoder.encode([text or "x" for text in texts])
    expected_ids = [encoding.ids for encoding in encodings]
    assert [ids for ids, text in zip(answer["ids"], texts, strict=True) if text] == [
        ids for ids, text in zip(expected_ids, texts, strict=True) if text
    ]
    assert answer["ids"][2] == [2, 3], "an empty text has no tokens of its own"
    runtime = SparseRuntime(deployment / "model.onnx", 1)
    for ids, logits in zip(answer["ids"], answer["logits"], strict=True):
        row = np.array([ids])
        inputs = dict(zip(NAMES, (row, row * 0 + 1, row * 0), strict=True))
        assert np.abs(runtime.run(inputs)[0] - logits).max() < 0.05


@needs_tools
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-40], "ends within"),
        (lambda data: data[:30], "ends within its header"),
        (lambda data: b"other" + data[5:], "does not begin as one"),
        (lambda data: data[:16] + b"\7" + data[17:], "has version 7, this page reads 1"),
        (lambda data: data.replace(b'"coding": "mask"', b'"coding": "plai"', 1), "has .* bytes"),
        (lambda data: data.replace(b'"shape": [280, 280]', b'"shape": [560, 280]', 1), "damaged"),
        (lambda data: data.replace(b'"vocabulary": {', b'"vocabulars": {'), "has no vocabulary"),
    ],
    ids=["truncated", "header", "magic", "version", "coding", "shape", "name"],
)
def test_a_damaged_file_is_refused(
    change: Callable[[bytes], bytes], message: str, deployment: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page"
    write_page(deployment, page, "A test")
    data = gzip.decompress((page / MODEL).read_bytes())
    assert change(data) != data
    (page / MODEL).write_bytes(change(data))
    answer = run_page(page, {"ids": [[5]]}, tmp_path)
    assert re.search(message, answer["error"]) and answer["error"].startswith("Error: The model")


def test_zeros_are_not_stored(deployment: Path) -> None:
    """At 80 % zeros, a bit for each weight and a byte for each nonzero one."""
    data = pack_model(deployment, "A test")
    size = int.from_bytes(data[20:24], "little")
    tensors = json.loads(data[24 : 24 + size])["tensors"]
    weight = tensors["layer0.intermediate"]
    count = 900 * 280
    assert weight["coding"] == "mask" and weight["bytes"] < count / 8 + 0.21 * count


def test_tensors_are_aligned_and_coded_as_what_is_smaller() -> None:
    tensors = Tensors()
    tensors.add("dense", np.arange(1, 12, dtype=np.int8))
    tensors.add("sparse", np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 7], np.float32))
    assert tensors.entries["dense"]["coding"] == "plain"
    assert tensors.entries["sparse"]["coding"] == "mask"
    assert [entry["offset"] % 8 for entry in tensors.entries.values()] == [0, 0]
    data = tensors.file({"title": "\u00fc"})
    assert data.endswith(np.float32(7).tobytes() + b"\0\2" + b"\0\0")
    with pytest.raises(TypeError, match="float64"):
        tensors.add("wrong", np.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("electra", "its embeddings are not a sum of tables"),
        ("modernbert", "normalize their inputs, or have gates"),
        ("modernbert_mean", "reads all tokens"),
        ("megatron_bert", "normalize their inputs"),
        ("deberta_v3", "compares tokens with relative positions"),
        ("deberta_v2_content", "replaces the scores of padding"),
        ("mpnet", "adds more to the scores of attention than a mask"),
    ],
)
def test_a_model_that_it_cannot_run_is_refused(model: str, reason: str, tmp_path: Path) -> None:
    deployment = write_deployment(tmp_path, model, quantized=False)
    with pytest.raises(UserError, match=f"a page cannot run this model: .*{reason}.*serve"):
        write_page(deployment, tmp_path / "page", "A test")
    assert not (tmp_path / "page").exists()


def _set_task(folder: Path) -> None:
    target = "sparsekit.runtime.tasks.embedding.EmbeddingAnswers"
    (folder / "task.json").write_text(json.dumps({"_target_": target}))


def _edit_tokenizer(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        change(tokenizer)
        file.write_text(json.dumps(tokenizer))

    return edit


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set_task, "its task is Embedding"),
        (
            _edit_tokenizer(lambda t: t["model"].update(type="BPE")),
            "the model of its tokenizer is BPE, not WordPiece",
        ),
        (
            _edit_tokenizer(lambda t: t["normalizer"].update(type="NFC")),
            "the normalizer of its tokenizer is NFC, not BertNormalizer",
        ),
        (
            _edit_tokenizer(lambda t: t["added_tokens"][0].update(lstrip=True)),
            "the added token .* has an option among",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text(
                '{"model_max_length": 20, "truncation_side": "left"}'
            ),
            "its tokenizer cuts long texts on the left",
        ),
    ],
    ids=["task", "model", "normalizer", "added", "truncation"],
)
def test_what_the_page_lacks_is_refused(
    change: Callable[[Path], None], reason: str, deployment: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "deployment"
    shutil.copytree(deployment, changed)
    change(changed)
    with pytest.raises(UserError, match=f"a page cannot run this model: {reason}"):
        pack_model(changed, "A test")


def test_a_damaged_tokenizer_is_named(deployment: Path, tmp_path: Path) -> None:
    changed = tmp_path / "deployment"
    shutil.copytree(deployment, changed)
    _edit_tokenizer(lambda t: t["model"].pop("vocab"))(changed)
    with pytest.raises(UserError, match=r"cannot read .*tokenizer\.json"):
        pack_model(changed, "A test")


def test_a_folder_with_files_is_not_overwritten(deployment: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder: remove it, or choose another"):
        write_page(deployment, tmp_path, "A test")


def test_without_emscripten(deployment: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="there is no emcc: install Emscripten"):
        write_page(deployment, tmp_path / "page", "A test")
    assert not (tmp_path / "page").exists()
