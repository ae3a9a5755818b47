"""`sparsekit serve` on loopback: three dialects, concurrent requests, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from project import GOLDEN
from serving import HOST, get, post, post_with_headers, serving

from sparsekit.errors import UserError
from sparsekit.runtime.answers import predict
from sparsekit.runtime.deployment import Deployment
from sparsekit.runtime.tasks.regression import RegressionAnswers
from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers
from sparsekit.serving.batcher import Batcher
from sparsekit.serving.limits import Limits

TEXTS = [
    " ".join(["film", "good", "bad", "dull"][(i + j) % 4] for j in range(1 + i % 7))
    for i in range(40)
]
LIMITS = Limits(max_batch=8, max_texts=50, max_characters=1000, max_bytes=50_000)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(shutil.copytree(GOLDEN / "old_run", tmp_path_factory.mktemp("serving") / "reviews"))


@pytest.fixture(scope="module")
def port(run: str) -> Iterator[int]:
    with serving([run, f"other={run}"], LIMITS) as port:
        yield port


@pytest.fixture(scope="module")
def expected(run: str) -> list[dict[str, Any]]:
    return predict(Path(run) / "deployment", TEXTS)


def test_text_embeddings_inference(port: int, expected: list[dict[str, Any]]) -> None:
    status, one = post(port, "/predict", {"inputs": TEXTS[0]})
    assert status == 200
    assert {each["label"]: each["score"] for each in one} == pytest.approx(expected[0]["scores"])
    assert one[0]["label"] == expected[0]["label"]
    status, batch = post(port, "/predict", {"inputs": [[text] for text in TEXTS]})
    assert status == 200
    assert [each[0]["score"] for each in batch] == pytest.approx([x["score"] for x in expected])
    status, pair = post(port, "/models/other/predict", {"inputs": TEXTS[:2]})
    assert status == 200 and pair[0].keys() == {"label", "score"}
    _, info = get(port, "/info")
    assert info["model_id"] == "reviews" and info["max_client_batch_size"] == 50
    assert "no embeddings" in post(port, "/embed", {"inputs": "a"})[1]["error"]
    assert "no number to order" in post(port, "/rerank", {"query": "a", "texts": ["b"]})[1]["error"]


def test_raw_scores_are_the_numbers_of_a_regression(run: str, tmp_path: Path) -> None:
    """And their sigmoid where they are asked for as Text Embeddings Inference does by default."""
    folder = shutil.copytree(Path(run) / "deployment", tmp_path / "rated")
    target = f"{RegressionAnswers.__module__}.{RegressionAnswers.__qualname__}"
    (folder / "task.json").write_text(json.dumps({"_target_": target}))
    texts = TEXTS[:4]
    numbers = [each["score"] for each in predict(folder, ["film"] * 4, texts)]
    order = sorted(range(4), key=lambda row: -numbers[row])
    with serving([str(folder)]) as port:
        for change, expected in (
            ({}, numbers),
            ({"raw_scores": None}, numbers),
            ({"raw_scores": True}, numbers),
            ({"raw_scores": False}, [1 / (1 + math.exp(-number)) for number in numbers]),
        ):
            body = {"inputs": [["film", text] for text in texts]} | change
            found = [each["score"] for [each] in post(port, "/predict", body)[1]]
            assert found == pytest.approx(expected, abs=1e-6)
            ranked = post(port, "/rerank", {"query": "film", "texts": texts} | change)[1]
            assert [each["index"] for each in ranked] == order
            best = [expected[row] for row in order]
            assert [each["score"] for each in ranked] == pytest.approx(best, abs=1e-6)


def test_open_inference(port: int, expected: list[dict[str, Any]]) -> None:
    tensor = {"name": "text", "shape": [40], "datatype": "BYTES", "data": TEXTS}
    status, answer = post(port, "/v2/models/other/infer", {"id": "7", "inputs": [tensor]})
    assert status == 200
    assert answer["id"] == "7" and answer["model_name"] == "other"
    outputs = {each["name"]: each for each in answer["outputs"]}
    assert outputs["label"]["data"] == [each["label"] for each in expected]
    assert outputs["score"]["datatype"] == "FP32" and outputs["score"]["shape"] == [40]
    assert outputs["score"]["data"] == pytest.approx([each["score"] for each in expected])
    assert json.loads(outputs["scores"]["data"][0]).keys() == expected[0]["scores"].keys()
    assert get(port, "/v2")[1]["name"] == "sparsekit"
    described = get(port, "/v2/models/other")[1]
    assert described["inputs"][0]["datatype"] == "BYTES"
    assert [(x["name"], x["datatype"], x["shape"]) for x in described["outputs"]] == [
        (x["name"], x["datatype"], [-1]) for x in answer["outputs"]
    ]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/other/ready", "/health"):
        assert get(port, path)[0] == 200, path


def test_deepsparse_server(port: int, expected: list[dict[str, Any]]) -> None:
    for path in ("/predict", "/v2/models/reviews/infer"):
        status, answer = post(port, path, {"sequences": TEXTS})
        assert status == 200
        assert answer["labels"] == [each["label"] for each in expected]
        assert answer["scores"] == pytest.approx([each["score"] for each in expected])


def test_concurrent_requests_get_their_own_answers(
    port: int, expected: list[dict[str, Any]]
) -> None:
    def ask(index: int) -> float:
        rows = [[TEXTS[(index + i) % 40]] for i in range(1 + index % 3)]
        status, answer = post(port, "/predict", {"inputs": rows})
        assert status == 200 and len(answer) == len(rows)
        return max(
            abs(found[0]["score"] - expected[(index + i) % 40]["score"])
            for i, found in enumerate(answer)
        )

    def batches(metrics: str) -> float:
        return float(metrics.split('sparsekit_batch_texts_count{model="reviews"}')[1].split()[0])

    requests, before = 200, batches(get(port, "/metrics")[1])
    with ThreadPoolExecutor(16) as clients:
        assert max(clients.map(ask, range(requests))) < 1e-6
    metrics = get(port, "/metrics")[1]
    assert 'sparsekit_requests_total{endpoint="/predict",status="200"}' in metrics
    assert batches(metrics) - before < requests, "no two requests were answered together"
    assert 'sparsekit_queue_texts{model="reviews"} 0.0' in metrics


TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/predict", b"{", 400, "is not JSON"),
        ("/predict", b'{"inputs": "\xff"}', 400, "is not UTF-8"),
        ("/predict", b"[" * 20_000, 400, "is not JSON"),
        ("/predict", b'{"inputs": NaN}', 400, "NaN is not a JSON number"),
        ("/predict", b'{"inputs": ' + b"1" * 5000 + b"}", 400, "is not JSON"),
        ("/predict", [], 422, "must be a JSON object"),
        ("/predict", {}, 422, "inputs must be a text"),
        ("/predict", {"inputs": 3}, 422, "inputs must be a text or a list"),
        ("/predict", {"inputs": []}, 422, "inputs must be a text"),
        ("/predict", {"inputs": [["a"], 3]}, 422, "inputs[1] must be"),
        ("/predict", {"inputs": " "}, 422, "is empty"),
        ("/predict", b'{"inputs": "\\ud800"}', 422, "is not UTF-8"),
        ("/predict", {"inputs": "a\udc00"}, 422, "half of a surrogate pair; convert it"),
        ("/predict", {"inputs": "a", "\udfff": 1}, 422, "half of a surrogate pair"),
        ("/rerank", {"query": "a", "texts": ["\udbff"]}, 422, "half of a surrogate pair"),
        ("/v2/models/other/infer", {"inputs": [TENSOR], "id": "\ud800"}, 422, "not UTF-8"),
        ("/v2/models/other/infer", {"inputs": [TENSOR | {"name": "\ud800"}]}, 422, "not UTF-8"),
        ("/predict", {"inputs": "a", "raw_scores": True}, 422, "gives no raw scores: leave it out"),
        ("/predict", {"inputs": "a", "raw_scores": 1}, 422, "raw_scores must be true or false"),
        ("/rerank", {"query": "a", "texts": ["b"], "raw_scores": "no"}, 422, "true or false"),
        ("/predict", {"inputs": "a" * 1001}, 413, "a text has 1001 characters; send at most 1000"),
        ("/predict", {"inputs": "a" * 60_000}, 413, "larger than 50000 bytes"),
        ("/predict", {"inputs": [["a"]] * 51}, 413, "has 51 texts; send at most 50"),
        ("/predict", {"sequences": [["a"]]}, 422, "sequences[0] must be"),
        ("/predict", {"sequences": {}}, 422, "sequences must be"),
        ("/predict", {"inputs": "a", "sequences": "b"}, 422, "has inputs and sequences: send one"),
        ("/v2/models/other/infer", {"inputs": [], "question": "b"}, 422, "inputs and question"),
        ("/predict", {"question": "a"}, 422, "context must be a text, not None"),
        ("/embed", {"inputs": [1]}, 422, "inputs[0] must be a text"),
        ("/embed", {"inputs": []}, 422, "there are no texts"),
        ("/rerank", {"query": "a", "texts": "b"}, 422, "texts must be a list"),
        ("/rerank", {"query": "a", "texts": ["b"], "return_text": 1}, 422, "true or false"),
        ("/v2/models/none/infer", {}, 404, "there is no model 'none'; there are reviews, other"),
        ("/v2/models/other/infer", {}, 422, "inputs must be a list of tensors"),
        ("/v2/models/other/infer", {"inputs": [TENSOR | {"shape": [2]}]}, 422, "shape must be [1]"),
        ("/v2/models/other/infer", {"inputs": [TENSOR | {"shape": [True]}]}, 422, "not [True]"),
        ("/v2/models/other/infer", {"inputs": [TENSOR, TENSOR]}, 422, "text, text; send each once"),
        ("/v2/models/other/infer", {"inputs": [TENSOR | {"name": "x"}]}, 422, "inputs are x"),
        ("/v2/models/other/infer", {"inputs": [TENSOR | {"datatype": "FP32"}]}, 422, "be BYTES"),
        ("/v2/models/other/infer", {"inputs": [TENSOR], "id": 3}, 422, "id must be a text"),
        ("/nowhere", {}, 404, "/nowhere: Not Found"),
        ("/info", {}, 405, "Method Not Allowed"),
    ],
)
def test_bad_requests_are_refused_and_the_server_goes_on(
    port: int, path: str, body: Any, status: int, message: str
) -> None:
    found, answer = post(port, path, body)
    assert (found, message in answer["error"]) == (status, True), answer
    assert post(port, "/predict", {"inputs": "fine"})[0] == 200


def test_binary_tensors_are_refused_by_name(port: int) -> None:
    """As Triton's HTTP client sends them: bytes behind the JSON."""
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES"}
    sized = tensor | {"parameters": {"binary_data_size": 5}}
    head = json.dumps({"inputs": [sized]}).encode()
    header = {"Inference-Header-Content-Length": str(len(head))}
    body = head + b"\x01\x00\x00\x00a"
    status, answer, _ = post_with_headers(port, "/v2/models/other/infer", body, **header)
    assert status == 400 and "send binary_data=False" in json.dumps(answer)


def test_escaped_pairs_are_characters(port: int) -> None:
    clapper = "\U0001f3ac"
    tensor = TENSOR | {"data": [clapper]}
    for content in (json.dumps, lambda body: json.dumps(body, ensure_ascii=False)):
        body = content({"id": clapper, "inputs": [tensor]}).encode()
        status, answer = post(port, "/v2/models/other/infer", body)
        assert (status, answer["id"]) == (200, clapper)


def test_a_client_that_hangs_up(port: int) -> None:
    for sent in (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{", b"\x16\x03"):
        with socket.create_connection((HOST, port)) as connection:
            connection.sendall(sent)
    body = json.dumps({"inputs": "fine"}).encode()
    with socket.create_connection((HOST, port)) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
    assert post(port, "/predict", {"inputs": "fine"})[0] == 200


def test_texts_of_clients_that_hung_up_are_not_computed(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of those that time out and send their texts again, while a batch is computed."""
    going, release, computed = threading.Event(), threading.Event(), []
    compute = Deployment.answers

    def slow(self: Deployment, rows: Any, *others: Any) -> Any:
        computed.extend(row[0] for row in rows)
        going.set()
        assert release.wait(20)
        return compute(self, rows, *others)

    with ThreadPoolExecutor(1) as clients, serving([run], Limits(max_batch=1)) as port:
        monkeypatch.setattr(Deployment, "answers", slow)
        first = clients.submit(post, port, "/predict", {"inputs": "first"})
        assert going.wait(20)
        body = json.dumps({"inputs": "abandoned"}).encode()
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        connections = [socket.create_connection((HOST, port)) for _ in range(5)]
        for connection in connections:
            connection.sendall(head.encode() + body)
        until = time.monotonic() + 20
        while 'sparsekit_queue_texts{model="reviews"} 5.0' not in get(port, "/metrics")[1]:
            assert time.monotonic() < until
        for connection in connections:
            connection.close()
        while 'sparsekit_queue_texts{model="reviews"} 0.0' not in get(port, "/metrics")[1]:
            assert time.monotonic() < until  # They leave before their turn.
        release.set()
        assert first.result()[0] == post(port, "/predict", {"inputs": "last"})[0] == 200
    assert computed == ["first", "last"]


def test_a_full_queue_refuses_and_accepted_texts_are_answered(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends while a batch is computed and another request waits."""
    going, release = threading.Event(), threading.Event()
    compute = Deployment.answers

    def slow(*arguments: Any) -> Any:
        going.set()
        assert release.wait(20)
        return compute(*arguments)

    with ThreadPoolExecutor(2) as clients:
        with serving([run], Limits(max_batch=1, max_queue=2)) as port:
            monkeypatch.setattr(Deployment, "answers", slow)
            first = clients.submit(post, port, "/predict", {"inputs": "fine"})
            assert going.wait(20)
            second = clients.submit(post, port, "/predict", {"inputs": [["a"], ["b"]]})
            until = time.monotonic() + 20
            while 'sparsekit_queue_texts{model="reviews"} 2.0' not in get(port, "/metrics")[1]:
                assert time.monotonic() < until
            # Of more texts than may ever wait: sent again it would be refused again.
            status, answer = post(port, "/predict", {"inputs": [["a"]] * 3})
            assert status == 413 and "has 3 texts; send at most 2 at once" in answer["error"]
            assert get(port, "/info")[1]["max_client_batch_size"] == 2
            status, answer, headers = post_with_headers(port, "/predict", {"inputs": "c"})
            assert (status, headers["retry-after"]) == (503, "1")
            assert "2 texts wait, and at most 2 may" in answer["error"]
            threading.Timer(0.3, release.set).start()
        assert [first.result()[0], second.result()[0]] == [200, 200]


def test_an_error_of_the_runtime_is_status_500(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving([run]) as port:
        with monkeypatch.context() as patch:

            def fail(*arguments: Any) -> Any:
                raise RuntimeError("secret path")

            patch.setattr(Deployment, "answers", fail)
            status, answer = post(port, "/predict", {"inputs": "fine"})
        assert status == 500 and "secret" not in answer["error"]
        assert post(port, "/predict", {"inputs": "fine"})[0] == 200


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/v2/health/live", "/v2/health/ready", "/v2/models/reviews/ready"]
)
def test_a_server_that_cannot_answer_says_so(
    run: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def broken(self: Batcher, batch: Any) -> Any:
        raise ZeroDivisionError

    with serving([run]) as port:
        assert get(port, path)[0] == 200
        monkeypatch.setattr(Batcher, "_compute", broken)
        assert post(port, "/predict", {"inputs": "fine"})[0] == 503
        status, answer = get(port, path)
        assert (status, answer["error_type"]) == (503, "Unhealthy")
        assert "reviews cannot answer: restart the server" in answer["error"]


def test_a_text_whose_logits_are_not_finite_is_refused(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = TextClassificationAnswers.answers

    def check(self: Any, encoder: Any, rows: Any, *others: Any) -> Any:
        if any(text == "infinite" for text, _ in rows):
            raise UserError("the logits of text 1 of 1 are infinite")
        return compute(self, encoder, rows, *others)

    monkeypatch.setattr(TextClassificationAnswers, "answers", check)
    with serving([run]) as port:
        status, answer = post(port, "/predict", {"inputs": "infinite"})
        assert status == 422 and "are infinite" in answer["error"]
        assert post(port, "/predict", {"inputs": "fine"})[0] == 200
