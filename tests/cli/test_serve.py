"""The process of `sparsekit serve`: its start, its log and its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from project import GOLDEN
from serving import post
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.errors import UserError
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.serving.limits import Limits
from sparsekit.serving.server import bound_socket, listen

FAMILIES = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


def serve(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["serve", *map(str, arguments)])


def test_a_server_answers_logs_json_and_ends_on_sigterm(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "old_run", tmp_path / "reviews")
    command = [sys.executable, "-m", "sparsekit", "serve", "mine=reviews", "--port", "0"]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        started = re.fullmatch(r"mine: http://127.0.0.1:(\d+)\n", server.stderr.readline())
        assert started is not None
        port = int(started[1])
        assert post(port, "/v2/models/mine/infer", {"sequences": "fine"})[0] == 200
        refused = serve(tmp_path / "reviews", "--port", port)
        assert refused.exit_code == 1
        assert "another server has it: choose another --port" in refused.stderr
        assert post(port, "/predict", {"inputs": "fine"})[0] == 200
        server.send_signal(signal.SIGTERM)
        rest = server.communicate(timeout=20)[1]
    finally:
        server.kill()
    assert server.returncode == 0, rest
    lines = [json.loads(line) for line in rest.splitlines()]
    requests = [line for line in lines if line["message"] == "request"]
    assert [line["path"] for line in requests] == ["/v2/models/mine/infer", "/predict"]
    assert {"time", "level", "status", "seconds"} <= requests[0].keys()


def test_no_torch_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "import sparsekit.serving.server\n"
        "from sparsekit.serving import app, models\n"
        "heavy = {'torch', 'transformers', 'datasets', 'hydra'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["run", "run"], "two models are named 'run'; give each another name"),
        (["=run"], "'=run' gives its model no name; name it, as in other=run"),
        (["run", "--runtime", "torch"], "there is no runtime 'torch'"),
        (["run", "--threads", "0"], "--threads is 0"),
        (["run", "--max-batch", "0", "--max-queue", "0"], "- --max-queue is 0"),
        (["run", "--max-wait-ms", "-1"], "--max-wait-ms is -1.0, it must be 0 to 10000"),
        (["run", "--port", "70000"], "--port is 70000, it must be 0 to 65535"),
        (["run", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(GOLDEN / "old_run", "run")
    port = [] if "--port" in options else ["--port", "0"]
    refused = serve(*options, *port)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: ") and message in refused.stderr


def test_the_options_reach_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def load(*arguments: Any) -> None:
        given.extend(arguments)
        raise UserError("far enough")

    monkeypatch.setattr("sparsekit.serving.models.load", load)
    monkeypatch.setattr("sparsekit.system.cores", os.cpu_count)
    monkeypatch.setattr(SparseRuntime, "missing", staticmethod(lambda: None))
    sizes = {"max_batch": 2, "max_queue": 3, "max_texts": 4, "max_characters": 5, "max_bytes": 6}
    limits = Limits(max_wait_ms=0.5, **sizes)
    options = [f"--{name.replace('_', '-')}={size}" for name, size in asdict(limits).items()]
    options += ["--runtime", "sparse", "--threads", "1", "--port", "0"]
    assert "far enough" in serve(f"mine={GOLDEN / 'old_run'}", *options).stderr
    folders, *others, _ = given
    assert list(folders) == ["mine"] and others == [SparseRuntime, 1, limits]
    given.clear()
    serve(GOLDEN / "old_run", "--port", "0")
    assert given[1:4] == [OnnxRuntime, os.cpu_count(), Limits()]


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_the_address_that_is_printed_can_be_opened(
    monkeypatch: pytest.MonkeyPatch, host: str, shown: str
) -> None:
    try:
        socket.create_server((host, 0), family=FAMILIES[host]).close()
    except OSError as error:
        pytest.skip(f"there is no {host} here: {error}")
    monkeypatch.setattr("sparsekit.serving.server.run", lambda app, listening: None)
    done = serve(GOLDEN / "old_run", "--host", host, "--port", "0")
    assert done.exit_code == 0
    assert re.fullmatch(rf"old_run: http://{re.escape(shown)}:\d+\n", done.stderr)


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with bound_socket("127.0.0.1", 0) as listening:
        listening.listen()
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        with client, accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_nobody_connects_before_the_models_are_loaded() -> None:
    with bound_socket("127.0.0.1", 0) as bound, pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname(), timeout=5)


def test_a_server_that_was_faster_is_reported() -> None:
    """Both bound the address while they loaded their models."""
    with bound_socket("127.0.0.1", 0) as ours:
        port = ours.getsockname()[1]
        with bound_socket("127.0.0.1", port) as theirs:
            theirs.listen()
            with pytest.raises(UserError, match=f"port {port}: .*another server has it"):
                listen(ours)
