"""A server on loopback, in a thread of this process, and requests to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import uvicorn

from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.serving.app import application
from sparsekit.serving.limits import Limits
from sparsekit.serving.metrics import Metrics
from sparsekit.serving.models import load, named_folders
from sparsekit.serving.server import bound_socket

HOST = "127.0.0.1"


@contextmanager
def serving(runs: Sequence[str], limits: Limits | None = None) -> Iterator[int]:
    """The port of a server of these runs, on onnxruntime."""
    metrics = Metrics()
    models = load(named_folders(runs), OnnxRuntime, 1, limits or Limits(), metrics)
    listening = bound_socket(HOST, 0)
    listening.listen()  # Clients may connect before the thread runs.
    config = uvicorn.Config(application(models, metrics), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


def get(port: int, path: str) -> tuple[int, Any]:
    return _request(port, "GET", path, None)[:2]


def post(port: int, path: str, body: Any) -> tuple[int, Any]:
    """Status and answer; a body that is not bytes is sent as JSON."""
    return post_with_headers(port, path, body)[:2]


def post_with_headers(
    port: int, path: str, body: Any, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    content = body if isinstance(body, bytes) else json.dumps(body)
    return _request(port, "POST", path, content, **headers)


def _request(
    port: int, method: str, path: str, body: bytes | str | None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    connection = HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        content = response.read()
        is_json = response.headers.get_content_type() == "application/json"
        answer = json.loads(content) if is_json else content.decode()
        return response.status, answer, dict(response.headers)
    finally:
        connection.close()
