"""Requests that are refused: a status, and a message that says how to correct the request."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse


class Refusal(Exception):
    """A request that is answered by an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def refuse(request: Request, error: Exception) -> JSONResponse:
    """The response to a request that raised `error`."""
    if isinstance(error, Refusal):
        # A full queue is empty again soon.
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return _response(error.status, str(error), headers)
    if isinstance(error, HTTPException):
        return _response(error.status_code, f"{request.url.path}: {error.detail}", error.headers)
    return _response(500, "the server failed to answer this request; its log has the cause", None)


def unhealthy(message: str) -> JSONResponse:
    """The response of a server that cannot answer texts."""
    return JSONResponse({"error": message, "error_type": "Unhealthy"}, 503)


def _response(status: int, message: str, headers: Mapping[str, str] | None) -> JSONResponse:
    # The names of Text Embeddings Inference.
    kind = {500: "Backend", 503: "Overloaded"}.get(status, "Validation")
    content = {"error": message, "error_type": kind}
    return JSONResponse(content, status, headers=dict(headers or {}))
