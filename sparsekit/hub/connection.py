"""Requests to the Hub that end: time limits, one retry, and no request once the connection is lost.

The Hub's client retries each request five times, which takes up to two minutes, and logs each
try. Imports no torch.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from logging import ERROR
from typing import Any

from huggingface_hub import constants, get_session
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import logging

from sparsekit.errors import first_line

# Seconds for a connection, and for each part of an answer where the client sets no limit.
CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
# What the Hub answers when it is overloaded or down.
BUSY = (408, 429, 500, 502, 503, 504)
# Seconds before a failed request is sent again, once.
PAUSE = 1.0
# How often the download of a file is begun: the client resumes one that breaks off.
BEGINNINGS = 3
# What the client raises, besides OSErrors, for a response that is not in the Hub's format.
NO_ANSWER = (ValueError, LookupError, TypeError, AttributeError)
OTHER_FORMAT = (
    f"the response of {constants.ENDPOINT} is not in the Hub's format; check HF_ENDPOINT, the "
    "proxy and the firewall"
)
LOG_IN = "log in (hf auth login, or HF_TOKEN)"


class HubError(OfflineModeIsEnabled):
    """The Hub does not respond, or responds with an error.

    The Hub's client treats it like offline mode: it does not retry, and falls back to its cache.
    """


@contextmanager
def limited_waiting() -> Iterator[None]:
    """Within the block every request to the Hub returns soon or raises HubError.

    Blocks may be nested, and several threads may be in one: the limits hold until the last ends.
    """
    library = _library(get_session())
    _LIMITS.begin(library)
    try:
        yield
    except library.RequestError as error:
        # Raised by the Hub's client itself, as for redirects without an end.
        raise _unreachable(error, constants.ENDPOINT) from error
    finally:
        _LIMITS.end()


def request_error() -> type[Exception]:
    """What a request to the Hub raises where the connection fails, outside of `limited_waiting`."""
    error: type[Exception] = _library(get_session()).RequestError
    return error


def _library(client: Any) -> Any:
    """The HTTP library of the Hub's client, which is another one for each of its versions."""
    names = (base.__module__.partition(".")[0] for base in type(client).__mro__)
    return import_module(next(name for name in names if name.startswith("httpx")))


class _Sender:
    """Replaces `send` of a client: each request is tried twice, none to a host that was lost.

    `datasets` also asks other hosts than the Hub, and does without their answers.
    """

    def __init__(self, send: Callable[..., Any], library: Any) -> None:
        self._send, self._library = send, library
        self._lost: dict[str, HubError] = {}
        self._begun: Counter[str] = Counter()

    def send(self, request: Any, **options: Any) -> Any:
        limits = dict(request.extensions.get("timeout", {}))
        for part in ("connect", "read", "write", "pool"):
            limits[part] = READ_SECONDS if limits.get(part) is None else limits[part]
        limits["connect"] = min(limits["connect"], CONNECT_SECONDS)
        request.extensions = {**request.extensions, "timeout": limits}
        if options.get("stream"):
            self._count(request.url)
        try:
            return self._once(request, options)
        except HubError as error:
            if request.url.host in self._lost:
                raise
            time.sleep(PAUSE)
            try:
                return self._once(request, options)
            except HubError:
                self._lost[request.url.host] = error
                raise

    def _once(self, request: Any, options: dict[str, Any]) -> Any:
        if request.url.host in self._lost:
            raise HubError(str(self._lost[request.url.host]))
        try:
            response = self._send(request, **options)
        except self._library.TimeoutException as error:
            # Tried once: the time is up.
            lost = HubError(f"{_address(request)} does not answer")
            self._lost[request.url.host] = lost
            raise lost from error
        except self._library.RequestError as error:
            raise _unreachable(error, _address(request)) from error
        if response.status_code in BUSY:
            response.close()
            status = f"{response.status_code} {response.reason_phrase}"
            raise HubError(f"{_address(request)} answers {status}; try again later")
        return response

    def _count(self, url: Any) -> None:
        self._begun[str(url)] += 1
        if self._begun[str(url)] > BEGINNINGS:
            lost = HubError(f"the download of {url} broke off {BEGINNINGS} times")
            self._lost[url.host] = lost


class _Limits:
    """The one sender of the Hub's client while any block of `limited_waiting` runs."""

    def __init__(self) -> None:
        self._lock, self._blocks = threading.Lock(), 0
        self._client: Any = None
        self._verbosity = 0

    def begin(self, library: Any) -> None:
        with self._lock:
            if self._blocks == 0:
                self._client, self._verbosity = get_session(), logging.get_verbosity()
                self._client.send = _Sender(self._client.send, library).send
                logging.set_verbosity(ERROR)
            self._blocks += 1

    def end(self) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                logging.set_verbosity(self._verbosity)
                del self._client.send


_LIMITS = _Limits()


def _address(request: Any) -> str:
    """The scheme, host and port that a request is sent to."""
    return f"{request.url.scheme}://{request.url.netloc.decode()}"


def _unreachable(error: Exception, address: str) -> HubError:
    return HubError(f"{address} cannot be reached: {first_line(error)}")


def reason(error: BaseException) -> str:
    """Why a request to the Hub failed, in one line: what the error itself or its cause says."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, HubError):
            return str(seen)
        if isinstance(seen, GatedRepoError):
            return f"it is gated: accept its terms on its page, and {LOG_IN}"
        if isinstance(seen, RepositoryNotFoundError):
            return f"it does not exist, or it is private; check the id, or {LOG_IN}"
        if isinstance(seen, HfHubHTTPError) and seen.response.status_code in (401, 403):
            status = f"{seen.response.status_code} {seen.response.reason_phrase}"
            return f"the Hub answers {status}; {LOG_IN} with a token that may read it"
        seen = seen.__cause__ or seen.__context__
    return first_line(error)
