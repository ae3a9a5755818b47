"""A Hub that fails as real ones do: each repository `fault/NAME` is served with the fault NAME."""

from __future__ import annotations

import re
import socket
import struct
import threading
from typing import ClassVar

from hub import Handler

FAULT = re.compile(r"/fault/([\w-]+)")
STATUS = re.compile(r"status-(\d+)")
# Ends the answers that stall, when the test is over.
OVER = threading.Event()


class FaultyHandler(Handler):
    """Faults of whole answers: status-N, silent, reset, redirect, garbage.

    Faults of a file's content: cut, cut-once (the client may resume), stall.
    """

    cut: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        fault = self.fault()
        if status := STATUS.fullmatch(fault):
            self.hub.requests.append(f"{self.command} {self.path}")
            return self.json({"error": "as asked"}, status=int(status[1]))
        if fault == "silent":
            self.hub.requests.append(f"{self.command} {self.path}")
            OVER.wait(60)
        elif fault == "reset":
            self.hub.requests.append(f"{self.command} {self.path}")
            # Closed with a reset instead of an end.
            option = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            self.close_connection = True
            self.connection.close()
        elif fault == "redirect":
            self.send(b"", 302, {"Location": self.path})
        elif fault == "garbage":
            self.send(b"<html>a proxy's page</html>", 200, {"Content-Type": "text/html"})
        else:
            super().do_GET()

    do_HEAD = do_POST = do_GET

    def fault(self) -> str:
        found = FAULT.search(self.path)
        return found[1] if found else ""

    def send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        fault = self.fault()
        if self.command != "GET" or "resolve" not in self.path or fault not in FAULTS_OF_CONTENT:
            return super().send(content, status, headers)
        if fault == "cut-once" and self.path in self.cut:
            return super().send(content, status, headers)
        self.cut.add(self.path)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        if fault == "stall":
            OVER.wait(60)
        self.close_connection = True


FAULTS_OF_CONTENT = ("cut", "cut-once", "stall")
