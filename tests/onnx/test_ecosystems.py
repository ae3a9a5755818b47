"""Deployments in other tools, the real ones: their answers are those of sparsekit."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browse, chromium
from ecosystems import SCRIPTS, deployments, ecosystem_python, js_package, run_json, texts
from project import GOLDEN

from sparsekit.onnx.layouts.write import write_layout
from sparsekit.runtime.deployment import Deployment
from sparsekit.runtime.onnxruntime import OnnxRuntime

pytestmark = pytest.mark.slow

# On CPUs without VNNI the int8 sums of other tools overflow: only sparsekit avoids it.
INT8_TOLERANCE = 5e-3
TOLERANCE = 1e-5
# What Optimum calls the model of each deployment.
HEADS = {
    "texts": "ModelForSequenceClassification",
    "tokens": "ModelForTokenClassification",
    "questions": "ModelForQuestionAnswering",
    # ORTModelForFeatureExtraction reads the vectors of tokens; this graph gives those of texts.
    "embeddings": "ModelForCustomTasks",
}
PIPELINES = {
    "texts": "text-classification",
    "tokens": "token-classification",
    "questions": "question-answering",
    "embeddings": "feature-extraction",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> dict[str, Path]:
    return deployments(tmp_path_factory.mktemp("runs"), student_folder)


def rows_of(name: str) -> list[tuple[str, str | None]]:
    found = texts()
    if name == "questions":
        return [(text.split(" is ")[0], text) for text in found]
    return [(text, None) for text in found]


def tolerance(name: str) -> float:
    return INT8_TOLERANCE if name == "texts" else TOLERANCE


def our_outputs(run: Path, name: str) -> list[dict[str, Any]]:
    """The graph's outputs for each row by itself."""
    deployment = Deployment(run / "deployment", OnnxRuntime, 1)
    found = []
    for text, pair in rows_of(name):
        encodings = deployment.encoder.encode([text], [pair])
        outputs = deployment.runtime.outputs(deployment.encoder.batch(encodings))
        found.append(dict(zip(deployment.task.outputs, outputs, strict=True)))
    return found


def our_answers(run: Path, name: str) -> list[dict[str, Any]]:
    deployment = Deployment(run / "deployment", OnnxRuntime, 1)
    rows = rows_of(name)
    return deployment.answers(rows, deployment.encode(rows), batch=1)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("library", ["ORT", "OV"])
def test_optimum_loads_the_deployment(
    library: str, name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    options = {"file_name": "model.onnx"} if library == "OV" else {}
    inputs = [text if pair is None else [text, pair] for text, pair in rows_of(name)]
    found = run_json(
        tmp_path,
        *(ecosystem_python(), SCRIPTS / "optimum_outputs.py", runs[name] / "deployment"),
        *(library + HEADS[name], json.dumps(options), json.dumps(inputs)),
    )
    expected = our_outputs(runs[name], name)
    assert len(found) == len(expected) == 20
    for theirs, ours in zip(found, expected, strict=True):
        assert theirs.keys() == ours.keys()
        for output in ours:
            np.testing.assert_allclose(theirs[output], ours[output], atol=tolerance(name) * 4)


@pytest.mark.parametrize("library", ["ORT", "OV"])
def test_optimum_reads_the_vectors_of_tokens_in_the_layout(
    library: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = write_layout(runs["embeddings"], "transformers.js", tmp_path / "models")
    options = {"subfolder": "onnx", "file_name": "model.onnx"}
    found = run_json(
        tmp_path,
        *(ecosystem_python(), SCRIPTS / "optimum_outputs.py", folder),
        *(f"{library}ModelForFeatureExtraction", json.dumps(options), json.dumps(texts())),
    )
    expected = our_outputs(runs["embeddings"], "embeddings")
    assert len(found) == len(expected) == 20
    for theirs, ours in zip(found, expected, strict=True):
        mean = np.mean(theirs["last_hidden_state"][0], axis=0)
        vector = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(vector, ours["sentence_embedding"][0], atol=TOLERANCE * 4)


def test_the_classes_of_triton_accept_the_config(runs: dict[str, Path], tmp_path: Path) -> None:
    for layout in ("triton", "triton-openvino"):
        for name, run in runs.items():
            write_layout(run, layout, tmp_path / layout)
            file = tmp_path / layout / name / "config.pbtxt"
            parsed = run_json(tmp_path, ecosystem_python(), SCRIPTS / "triton_config.py", file)
            assert parsed["name"] == name
            assert [tensor["dataType"] for tensor in parsed["input"]] == ["TYPE_INT64"] * 3


def in_transformers_js(
    folder: Path, name: str, options: dict[str, Any], home: Path, calls: list[Any]
) -> Any:
    package = js_package("@huggingface/transformers")
    return run_json(
        home,
        *("node", SCRIPTS / "transformers_js.mjs", package / "dist" / "transformers.node.mjs"),
        *(folder, PIPELINES[name], json.dumps(options), json.dumps(calls)),
    )


@pytest.mark.parametrize("name", PIPELINES)
def test_transformers_js_loads_the_layout_without_arguments(
    name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = write_layout(runs[name], "transformers.js", tmp_path / "models")
    calls: list[Any] = [[text] if pair is None else [text, pair] for text, pair in rows_of(name)]
    if name == "tokens":
        calls = [[*call, {"ignore_labels": []}] for call in calls]
    found = in_transformers_js(folder, name, {}, tmp_path, calls)
    compare[name](found, runs[name])


def test_transformers_js_loads_the_deployment_itself(runs: dict[str, Path], tmp_path: Path) -> None:
    calls = [[text] for text, _ in rows_of("texts")]
    folder = runs["texts"] / "deployment"
    found = in_transformers_js(folder, "texts", {"subfolder": ""}, tmp_path, calls)
    compare_labels(found, runs["texts"])


def compare_labels(found: list[Any], run: Path) -> None:
    expected = our_answers(run, "texts")
    assert len(found) == len(expected) == 20
    assert len({round(answer["score"], 3) for answer in expected}) > 10
    for [theirs], ours in zip(found, expected, strict=True):
        assert theirs["score"] == pytest.approx(ours["score"], abs=INT8_TOLERANCE)
        # Between equal scores, rounding decides.
        assert theirs["label"] == ours["label"] or abs(ours["score"] - 0.5) < INT8_TOLERANCE


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def compare_entities(found: list[Any], run: Path) -> None:
    """Theirs are the labels of tokens, with the tokens' positions."""
    labels = Deployment(run / "deployment", OnnxRuntime, 1).encoder.labels
    named = set()
    for theirs, ours in zip(found, our_outputs(run, "tokens"), strict=True):
        [logits] = ours["logits"]
        # Between [CLS] and [SEP].
        assert [token["index"] for token in theirs] == list(range(1, len(logits) - 1))
        for token in theirs:
            scores = softmax(logits[token["index"]])
            assert token["entity"] == labels[scores.argmax()]
            assert token["score"] == pytest.approx(scores.max(), abs=TOLERANCE)
            named.add(token["entity"])
    assert len(found) == 20 and named == set(labels)


def compare_spans(found: list[Any], run: Path) -> None:
    """Theirs are the best span of the context, without a limit of its length."""
    encoder = Deployment(run / "deployment", OnnxRuntime, 1).encoder
    rows = rows_of("questions")
    for theirs, ours, (text, pair) in zip(found, our_outputs(run, "questions"), rows, strict=True):
        [encoding] = encoder.encode([text], [pair])
        context = np.array(encoding.type_ids) * (1 - np.array(encoding.special_tokens_mask))
        both = [ours[name][0] for name in ("start_logits", "end_logits")]
        # The first token stands for no answer: it takes its share of the probability.
        kept = [np.where(context + (np.arange(len(context)) == 0), x, -np.inf) for x in both]
        start, end = (softmax(logits) * (np.arange(len(context)) > 0) for logits in kept)
        scores = np.triu(np.outer(start, end))
        assert theirs["score"] == pytest.approx(scores.max(), rel=1e-3)
        first, last = np.unravel_index(scores.argmax(), scores.shape)
        begin, stop = encoding.offsets[first][0], encoding.offsets[last][1]
        # Theirs is joined from tokens, with other spaces before punctuation.
        assert theirs["answer"].replace(" ", "") == pair[begin:stop].replace(" ", "")
    assert len(found) == 20


def compare_vectors(found: list[Any], run: Path) -> None:
    ours = [answer["embedding"] for answer in our_answers(run, "embeddings")]
    assert np.shape(found) == np.shape(ours) == (20, 32)
    np.testing.assert_allclose(found, ours, atol=TOLERANCE)


compare = {
    "texts": compare_labels,
    "tokens": compare_entities,
    "questions": compare_spans,
    "embeddings": compare_vectors,
}


@contextmanager
def site(models: Path, folder: Path) -> Iterator[str]:
    """The address of the page with the npm packages and `models`, on loopback."""
    package = js_package("onnxruntime-web")
    folder.mkdir()
    shutil.copy(SCRIPTS / "browser.html", folder)
    (folder / "js").symlink_to(package.parent)
    (folder / "models").symlink_to(models)

    class Files(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Files, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/browser.html"
        finally:
            server.shutdown()


@pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium")
def test_a_browser_answers_the_same(runs: dict[str, Path], tmp_path: Path) -> None:
    """onnxruntime-web gives the same outputs, and transformers.js the same labels."""
    models = tmp_path / "models"
    for name, run in runs.items():
        write_layout(run, "transformers.js", models, name)
    with site(models, tmp_path / "site") as address, browse(tmp_path / "profile") as page:
        page.open(address)
        for name, run in runs.items():
            encoder = Deployment(run / "deployment", OnnxRuntime, 1).encoder
            rows = []
            for text, pair in rows_of(name):
                inputs = encoder.batch(encoder.encode([text], [pair]))
                rows.append({key: value[0].tolist() for key, value in inputs.items()})
            graph = f"models/{name}/onnx/model.onnx"
            found = page.evaluate(f"outputs({json.dumps(graph)}, {json.dumps(rows)})")
            for theirs, ours in zip(found, our_outputs(run, name), strict=True):
                # The layout's graph of embeddings gives the vectors of tokens too.
                assert theirs.keys() >= ours.keys()
                for output in ours:
                    difference = np.abs(np.array(theirs[output]) - ours[output].ravel())
                    assert difference.max() < tolerance(name) * 4, (name, output)
        labels = page.evaluate(f'labels("texts", {json.dumps(texts())})')
        compare_labels([[label] for label in labels], runs["texts"])


def test_an_old_deployment_loads_too(tmp_path: Path) -> None:
    """One of version 0.1, which does not say how transformers.js loads it."""
    shutil.copytree(GOLDEN / "old_run" / "deployment", tmp_path / "old")
    folder = write_layout(tmp_path / "old", "transformers.js", tmp_path / "models")
    found = in_transformers_js(folder, "texts", {}, tmp_path, [["a warm film"]])
    assert found[0][0]["label"] in json.loads((folder / "config.json").read_text())["label2id"]
