"""A Hub that fails: one sentence within seconds, and none of the library's lines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_hub import OVER, FaultyHandler
from hub import Hub, serve
from huggingface_hub import get_session

from sparsekit.hub.connection import limited_waiting
from sparsekit.onnx.sums import write_sums

# What each fault must be called, by the name of the repository that has it.
FAULTS = {
    "status-401": "answers 401 Unauthorized; log in (hf auth login, or HF_TOKEN)",
    "status-403": "answers 403 Forbidden; log in (hf auth login, or HF_TOKEN)",
    "status-404": "404",
    "status-429": "answers 429 Too Many Requests; try again later",
    "status-500": "answers 500 Internal Server Error; try again later",
    "status-503": "answers 503 Service Unavailable; try again later",
    "silent": "does not answer",
    "reset": "cannot be reached: ",
    "redirect": "cannot be reached: ",
    "garbage": "does not seem to be served by a Hugging Face Hub endpoint",
    "cut": "broke off 3 times",
    "stall": "broke off 3 times",
    "nothing": "it does not exist, or it is private",
}
# The first request for a checkpoint is not for a file.
FETCHED = FAULTS | {"garbage": "is not in the Hub's format; check HF_ENDPOINT, the proxy and"}
# Half of what a silent Hub keeps its clients waiting: they wait for 6 seconds at most, three times
# two of a stalled download, and a busy machine takes its own time.
SECONDS = 30
CLIENT = """
import json, sys, time
from pathlib import Path
from sparsekit.data.datasets import HubDataset
from sparsekit.errors import UserError
from sparsekit.hub import connection
from sparsekit.models.hub import fetch
from sparsekit.onnx.hub import pull_deployment

connection.READ_SECONDS = 1.0
ACTIONS = {
    "pull": lambda name: pull_deployment(name, Path("pulled") / name),
    "fetch": fetch,
    "load": lambda name: HubDataset(path=name).raw([]),
}
for line in sys.stdin:
    action, name = line.split()
    started, message = time.monotonic(), None
    try:
        ACTIONS[action](f"fault/{name}")
    except UserError as error:
        message = str(error)
    seconds = time.monotonic() - started
    print(json.dumps({"action": action, "name": name, "seconds": seconds, "message": message}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A deployment, a checkpoint and a data set under the name of each fault."""
    folder = tmp_path_factory.mktemp("hub")
    made = folder / "made"
    made.mkdir()
    for name in ("model.onnx", "config.json", "tokenizer.json"):
        (made / name).write_text("{}" * 100)
    write_sums(made, list(made.iterdir()))
    for fault in [*FAULTS, "cut-once"]:
        if fault != "nothing":
            shutil.copytree(made, folder / "models" / "fault" / fault)
            data = folder / "datasets" / "fault" / fault
            data.mkdir(parents=True)
            (data / "train.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 50)
    with serve(folder, FaultyHandler) as running:
        yield running
        OVER.set()


def run(hub: Hub, folder: Path, jobs: list[tuple[str, str]]) -> tuple[list[dict[str, Any]], str]:
    """What a process with the real clients says of each action on each repository."""
    limits = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        env=os.environ | hub.environment(folder / "home") | limits,
        cwd=folder,
        input="".join(f"{action} {name}\n" for action, name in jobs),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_every_fault_is_one_sentence_within_seconds(hub: Hub, tmp_path: Path) -> None:
    # Checkpoints are fetched by the same functions: some faults show that.
    fetched = ("status-403", "status-500", "silent", "reset", "garbage", "cut", "nothing")
    jobs = [("pull", name) for name in FAULTS] + [("fetch", name) for name in fetched]
    before = len(hub.requests)
    answers, log = run(hub, tmp_path, jobs)
    assert len(answers) == len(jobs)
    for answer in answers:
        message = answer["message"]
        expected = FETCHED if answer["action"] == "fetch" else FAULTS
        assert message and expected[answer["name"]] in message, answer
        assert f"'fault/{answer['name']}'" in message and "\n" not in message, answer
        assert answer["seconds"] < SECONDS, answer
    assert "Retrying" not in log and "thrown while" not in log and "Traceback" not in log, log
    # Each command asked a silent Hub once.
    assert sum("/fault/silent" in request for request in hub.requests[before:]) == 2


def test_data_sets_fail_alike(hub: Hub, tmp_path: Path) -> None:
    names = ["status-401", "status-500", "silent", "reset", "nothing"]
    answers, log = run(hub, tmp_path, [("load", name) for name in names])
    for answer in answers:
        message = answer["message"]
        assert message.startswith(f"cannot load the dataset 'fault/{answer['name']}' from the Hub")
        assert "\n" not in message and answer["seconds"] < SECONDS, answer
    assert "Retrying" not in log, log


def test_a_download_that_breaks_off_once_is_resumed(hub: Hub, tmp_path: Path) -> None:
    [answer], _ = run(hub, tmp_path, [("pull", "cut-once")])
    assert answer["message"] is None, answer
    pulled = tmp_path / "pulled" / "fault" / "cut-once"
    assert (pulled / "model.onnx").read_text() == "{}" * 100


def test_the_cache_serves_while_the_hub_is_down(hub: Hub, tmp_path: Path) -> None:
    folder = hub.folder / "models" / "fault"
    shutil.copytree(folder / "cut-once", folder / "sound")
    [first], _ = run(hub, tmp_path, [("fetch", "sound")])
    assert first["message"] is None
    down = Hub("http://127.0.0.1:9", hub.folder)
    answers, log = run(down, tmp_path, [("fetch", "sound"), ("fetch", "other")])
    assert answers[0]["message"] is None
    assert "127.0.0.1:9 cannot be reached: " in answers[1]["message"]
    assert max(answer["seconds"] for answer in answers) < SECONDS
    assert "Retrying" not in log


def test_limits_hold_until_the_last_block_ends() -> None:
    client: Any = get_session()
    assert "send" not in vars(client)
    with limited_waiting():
        limited = client.send
        with limited_waiting():
            assert client.send == limited
        assert client.send == limited
    assert "send" not in vars(client)


def test_threads_share_the_limits() -> None:
    client: Any = get_session()
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    limited = []

    def first() -> None:
        with limited_waiting():
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(10)
        with limited_waiting():
            second_is_in.set()
            first_is_out.wait(10)
            limited.append("send" in vars(client))

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limited == [True] and "send" not in vars(client)
