"""The process that listens: its socket, its log, and its end."""

from __future__ import annotations

import errno
import json
import logging
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from sparsekit.errors import UserError

# Seconds that answers may take after the signal to end.
GRACE = 30
# Connections that wait to be accepted.
_BACKLOG = 2048


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{written}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket of this address, for `listen`. Raises UserError where it cannot be had.

    Nobody can connect before that, so that a probe of the port waits for the models.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}, it must be 0 to 65535; 0 chooses a free one")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise _cannot_listen(host, port, error) from error
    # asyncio does so only for sockets that name their protocol; without it an answer, whose head
    # and body are sent apart, waits 40 ms for the client's delayed acknowledgement.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    used = error.errno == errno.EADDRINUSE
    fix = "another server has it: choose another --port" if used else "choose --host and --port"
    return UserError(f"cannot listen on {host} port {port}: {error}; {fix}")


def address(host: str, port: int) -> str:
    """The URL of a server.

    >>> address("127.0.0.1", 8000), address("::1", 8000)
    ('http://127.0.0.1:8000', 'http://[::1]:8000')
    """
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(bound: socket.socket) -> None:
    """Let clients connect. Raises UserError where another server has the address by now."""
    try:
        bound.listen(_BACKLOG)
    except OSError as error:
        host, port, *_ = bound.getsockname()
        raise _cannot_listen(host, port, error) from error


def run(app: ASGIApp, listening: socket.socket) -> None:
    """Answer requests until SIGTERM or Ctrl-C; then answer what was accepted, and return."""
    _log_json()
    # uvicorn raises the signal again once it has ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _log_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("sparsekit", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def _ended(number: int, frame: FrameType | None) -> None:
    """The server has ended already."""
