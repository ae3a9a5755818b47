"""The JSON object in a request's body."""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from sparsekit.runtime.encoder import is_utf8
from sparsekit.serving.limits import Limits
from sparsekit.serving.refusals import Refusal

# Says how much of a body is JSON. Triton's client sends it, unless its tensors have
# binary_data=False.
_BINARY = "Inference-Header-Content-Length"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def json_body(request: Request, limits: Limits) -> dict[str, Any]:
    """The body.

    Raises Refusal where it is too large, and where it is not a JSON object of texts in UTF-8, as
    where tensors follow it as bytes.
    """
    if _BINARY in request.headers:
        raise Refusal(
            400, f"the body has tensors as binary data ({_BINARY}); send binary_data=False"
        )
    received = bytearray()
    try:
        async for piece in request.stream():
            received += piece
            if len(received) > limits.max_bytes:
                raise Refusal(
                    413, f"the body is larger than {limits.max_bytes} bytes; send fewer texts"
                )
    except ClientDisconnect as error:
        raise Refusal(400, "the client ended the connection within the body") from error
    try:
        body = json.loads(received.decode(), parse_constant=_refuse_constant)
        # Only an escape can be half of a pair; most bodies have none.
        escaped = _SURROGATE.search(received) is not None
        whole = not escaped or is_utf8(json.dumps(body, ensure_ascii=False))
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error
    if not whole:
        raise Refusal(
            422, "a text of the body is not UTF-8: it has half of a surrogate pair; convert it"
        )
    if not isinstance(body, dict):
        raise Refusal(422, f"the body must be a JSON object, not {shown(body)}")
    return body


def text_of(value: Any, where: str) -> str:
    """`value`, which must be a text. Raises Refusal."""
    if not isinstance(value, str):
        raise Refusal(422, f"{where} must be a text, not {shown(value)}")
    return value


def texts_of(value: Any, where: str) -> list[str]:
    """`value`, which must be a list of texts. Raises Refusal."""
    if not isinstance(value, list):
        raise Refusal(422, f"{where} must be a list of texts, not {shown(value)}")
    return [text_of(each, f"{where}[{i}]") for i, each in enumerate(value)]


def flag_of(body: dict[str, Any], key: str, default: bool) -> bool:
    """A switch of the body. Raises Refusal."""
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Refusal(422, f"{key} must be true or false, not {shown(value)}")
    return value


def shown(value: Any) -> str:
    """`value` as messages show it: shortened."""
    return reprlib.repr(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
