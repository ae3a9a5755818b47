"""A headless Chromium, driven over its remote debugging pipe: no driver and no package needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60


def chromium() -> str | None:
    """The path of an installed Chromium."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. Messages are JSON texts that end in a zero byte, on file descriptors 3 and 4."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._buffer, self._number = send, receive, b"", 0
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, path: Path | str) -> None:
        """Load a file, or an address on this machine, and wait for its end."""
        self.events.clear()
        url = path if isinstance(path, str) else path.resolve().as_uri()
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, or of the promise that it is."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path, width: int = 1280) -> None:
        """The whole page as a PNG."""
        height = 100
        for _ in range(2):  # the height follows from the width
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.call("Emulation.setDeviceMetricsOverride", **size)
            height = self.evaluate("document.documentElement.scrollHeight")
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def wait(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + SECONDS
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"{expression} stays false"
            time.sleep(0.05)

    def problems(self, own: str = "file:") -> list[str]:
        """Exceptions and console errors of the page that is open, and what it fetched from afar.

        own: how the addresses of its own files begin.
        """
        found = []
        for event in self.events:
            url = event.get("params", {}).get("request", {}).get("url", "file:")
            level = event.get("params", {}).get("entry", {}).get("level")
            if event.get("method") == "Runtime.exceptionThrown" or level == "error":
                found.append(json.dumps(event["params"])[:500])
            elif not url.startswith(("file:", "data:", own)):
                found.append(f"fetched {url}")
        return found

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            assert select.select([self._receive], [], [], max(0.0, left))[0], "no answer"
            received = os.read(self._receive, 1 << 16)
            assert received, "Chromium ended"
            self._buffer += received
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


def _above(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return moved


@contextmanager
def browse(profile: Path) -> Iterator[Page]:
    """Start Chromium with an empty profile; it ends with the block."""
    executable = chromium()
    assert executable is not None
    (out_read, out_write), (in_read, in_write) = os.pipe(), os.pipe()
    # Above 4, so that giving one its place there does not close the other.
    out_read, in_write = _above(out_read), _above(in_write)

    def places() -> None:
        os.dup2(out_read, 3)
        os.dup2(in_write, 4)

    process = subprocess.Popen(
        [
            executable,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
        ],
        preexec_fn=places,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(out_read)
    os.close(in_write)
    try:
        yield Page(out_write, in_read)
    finally:
        process.terminate()
        process.wait(20)
        os.close(out_write)
        os.close(in_read)
