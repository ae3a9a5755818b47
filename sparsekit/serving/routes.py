"""The addresses that the server answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sparsekit.serving.bodies import json_body
from sparsekit.serving.dialects import deepsparse, embeddings_inference, open_inference
from sparsekit.serving.metrics import Metrics
from sparsekit.serving.models import ServedModel
from sparsekit.serving.openapi import ADDRESSES, document
from sparsekit.serving.refusals import Refusal, unhealthy

Answering = Callable[[ServedModel, dict[str, Any]], Coroutine[Any, Any, Any]]
# nginx's status for its log; there is no standard one.
_CLIENT_CLOSED_REQUEST = 499


class Endpoints:
    """The handlers of all addresses; those without a model's name mean the first model."""

    def __init__(self, models: Sequence[ServedModel], metrics: Metrics) -> None:
        self._models: Mapping[str, ServedModel] = {model.name: model for model in models}
        self._first, self._metrics = models[0], metrics

    def routes(self) -> list[Route]:
        """Every address. Those under /models/NAME speak to one of several models."""
        handlers = {
            "predict": self._answer(_predict),
            "embed": self._answer(embeddings_inference.embed),
            "rerank": self._answer(embeddings_inference.rerank),
            "infer": self._answer(_infer),
            "info": self.info,
            "health": self.health,
            "metrics": self.metrics,
            "openapi": self.openapi,
            "server": self.server,
            "metadata": self.metadata,
            "model_ready": self.model_ready,
        }
        return [
            Route(each.path, handlers[each.handler], methods=[each.method]) for each in ADDRESSES
        ]

    def model(self, request: Request) -> ServedModel:
        """The model that the address names. Raises Refusal for an unknown one."""
        name = request.path_params.get("model")
        if name is None:
            return self._first
        if name not in self._models:
            raise Refusal(404, f"there is no model {name!r}; there are {', '.join(self._models)}")
        return self._models[name]

    def _answer(self, answer: Answering) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            model = self.model(request)
            body = await json_body(request, model.limits)
            return await _while_connected(request, answer(model, body))

        return handle

    async def info(self, request: Request) -> Response:
        return JSONResponse(embeddings_inference.info(self.model(request)))

    async def health(self, request: Request) -> Response:
        """Models are loaded before the server listens: who answers is ready, until one fails."""
        if failed := [name for name, model in self._models.items() if not model.batcher.ready]:
            return unhealthy(f"{', '.join(failed)} cannot answer: restart the server")
        return JSONResponse({"live": True, "ready": True})

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document(list(self._models)))

    async def server(self, request: Request) -> Response:
        return JSONResponse(open_inference.server())

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(open_inference.metadata(self.model(request)))

    async def model_ready(self, request: Request) -> Response:
        model = self.model(request)
        if not model.batcher.ready:
            return unhealthy(f"{model.name} cannot answer: restart the server")
        return JSONResponse({"name": model.name, "ready": True})


async def _while_connected(request: Request, answer: Coroutine[Any, Any, Any]) -> Response:
    """The response with the answer, which is cancelled once the client has hung up.

    A client that timed out sends its texts again: they would be computed twice.
    """
    answering = asyncio.ensure_future(answer)
    hung_up = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait([answering, hung_up], return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return Response(status_code=_CLIENT_CLOSED_REQUEST)  # Nobody reads it.
        return JSONResponse(answering.result())
    finally:
        for task in (answering, hung_up):
            task.cancel()


async def _hung_up(request: Request) -> None:
    """Wait until the client of a request whose body was read closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _predict(model: ServedModel, body: dict[str, Any]) -> Any:
    """The dialect is that of the body's keys."""
    found = [key for key in ("inputs", *deepsparse.KEYS) if key in body]
    if len(found) > 1:
        raise Refusal(422, f"the body has {' and '.join(found)}: send one of them")
    if any(key in body for key in deepsparse.KEYS):
        return await deepsparse.predict(model, body)
    return await embeddings_inference.predict(model, body)


async def _infer(model: ServedModel, body: dict[str, Any]) -> Any:
    """DeepSparse Server answers at this address too."""
    if any(key in body for key in deepsparse.KEYS):
        return await _predict(model, body)
    return await open_inference.infer(model, body)
