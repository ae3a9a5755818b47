"""The ASGI application: routes, refusals, a log line and measurements for each request."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparsekit.serving.metrics import Metrics
from sparsekit.serving.models import ServedModel
from sparsekit.serving.refusals import Refusal, refuse
from sparsekit.serving.routes import Endpoints

log = logging.getLogger(__name__)


def application(models: Sequence[ServedModel], metrics: Metrics) -> ASGIApp:
    """The server of these models, of which there is at least one."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        for model in models:
            model.batcher.start()
        yield
        for model in models:
            await model.batcher.stop()

    app = Starlette(
        routes=Endpoints(models, metrics).routes(),
        lifespan=lifespan,
        exception_handlers={Refusal: refuse, HTTPException: refuse, Exception: refuse},
    )
    return Observed(app, metrics)


class Observed:
    """Logs and measures every request that `app` answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observe)
        finally:
            seconds = time.perf_counter() - started
            route = scope.get("route")
            # Not the address itself: anybody can ask for any number of them.
            endpoint = route.path if route is not None else "unknown"
            self._metrics.requests.labels(endpoint, str(status)).inc()
            self._metrics.seconds.labels(endpoint).observe(seconds)
            fields = {"method": scope["method"], "path": scope["path"], "status": status}
            log.info("request", extra={"fields": fields | {"seconds": round(seconds, 6)}})
