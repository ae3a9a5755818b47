"""Batches of the texts of concurrent requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from tokenizers import Encoding

from sparsekit.errors import UserError, first_line
from sparsekit.runtime.base import RuntimeFailed
from sparsekit.runtime.deployment import Deployment
from sparsekit.runtime.tasks.base import Answer, Row
from sparsekit.serving.limits import Limits
from sparsekit.serving.metrics import ModelMetrics
from sparsekit.serving.refusals import Refusal

log = logging.getLogger(__name__)

Outcome = list[Answer] | Exception
# The texts of a request, and its tokens.
Encoded = tuple[Sequence[Row], list[Encoding]]


@dataclass(frozen=True, eq=False)
class Waiting:
    """The texts of one request, and the future of their answers."""

    rows: Sequence[Row]
    answers: asyncio.Future[list[Answer]]


class Batcher:
    """Answers requests in the order in which they came, several at once.

    A batch is what has come while the one before it was computed, and within `max_wait_ms` more, up
    to `max_batch` texts; a request of more is a batch of its own, of which the model computes
    `max_batch` texts at once. One thread computes, since tokenizer and runtime serve one caller.
    """

    def __init__(self, deployment: Deployment, limits: Limits, metrics: ModelMetrics) -> None:
        self._deployment, self._limits, self._metrics = deployment, limits, metrics
        # A dict keeps their order, and lets any of them leave.
        self._queue: dict[Waiting, None] = {}
        self._changed = asyncio.Event()
        self._texts, self._open = 0, False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether it answers: false before `start`, after `stop`, and after a fault of its own."""
        return self._open

    def start(self) -> None:
        """Begin to answer; within the event loop."""
        self._open = True
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def stop(self) -> None:
        """Answer what was accepted, and end."""
        self._open = False
        self._changed.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._thread.shutdown()

    async def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """The answer to each row. Raises Refusal where the queue is full or a text is wrong."""
        if not self._open:
            raise _not_ready()
        if self._texts + len(rows) > self._limits.max_queue:
            raise Refusal(
                503,
                f"{self._texts} texts wait, and at most {self._limits.max_queue} may; send the "
                "request again later",
            )
        waiting = Waiting(rows, asyncio.get_running_loop().create_future())
        self._enter(waiting)
        try:
            return await waiting.answers
        finally:
            self._leave(waiting)  # If the client hung up, it still waits.

    async def _serve(self) -> None:
        batch: list[Waiting] | None = None
        try:
            while (batch := await self._next_batch()) is not None:
                await self._answer(batch)
        except Exception:
            log.exception("the server can answer no more: restart it")
        finally:
            # Whatever ended the loop: nobody waits for an answer that never comes.
            self._open = False
            self._refuse(batch or [])

    async def _answer(self, batch: Sequence[Waiting]) -> None:
        loop = asyncio.get_running_loop()
        outcomes = await loop.run_in_executor(self._thread, self._compute, batch)
        for each, outcome in zip(batch, outcomes, strict=True):
            if each.answers.cancelled():
                continue  # The client hung up meanwhile.
            if isinstance(outcome, Exception):
                each.answers.set_exception(outcome)
            else:
                each.answers.set_result(outcome)

    async def _next_batch(self) -> list[Waiting] | None:
        """The next requests, at least one; None at the end."""
        while not (batch := await self._collect()):
            if not self._open:
                return None
        for each in batch:
            self._leave(each)
        return batch

    async def _collect(self) -> list[Waiting]:
        """Wait for texts of one batch; none if the batcher stops, or if all clients hung up."""
        while self._open and not self._queue:
            await self._change()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.max_wait_ms / 1000):
                while self._open and 0 < self._texts < self._limits.max_batch:
                    await self._change()
        batch: list[Waiting] = []
        room = self._limits.max_batch
        for each in self._queue:
            room -= len(each.rows)
            if batch and room < 0:
                break
            batch.append(each)
        return batch

    def _refuse(self, batch: Sequence[Waiting]) -> None:
        """Refuse the requests of a batch, and all that wait."""
        for each in [*batch, *self._queue]:
            self._leave(each)
            if not each.answers.done():
                each.answers.set_exception(_not_ready())

    async def _change(self) -> None:
        """Wait until a request comes or leaves, or the batcher stops."""
        self._changed.clear()
        await self._changed.wait()

    def _enter(self, request: Waiting) -> None:
        self._queue[request] = None
        self._count(len(request.rows))

    def _leave(self, request: Waiting) -> None:
        if request in self._queue:
            del self._queue[request]
            self._count(-len(request.rows))

    def _count(self, texts: int) -> None:
        self._texts += texts
        self._metrics.queue.set(self._texts)
        self._changed.set()

    def _compute(self, batch: Sequence[Waiting]) -> list[Outcome]:
        """The answers to each request of a batch, or its error; in the batcher's thread."""
        outcomes: dict[int, Outcome] = {}
        encoded: dict[int, Encoded] = {}
        for index, each in enumerate(batch):
            try:
                encoded[index] = each.rows, self._deployment.encode(each.rows)
            except BaseException as error:  # of any kind, as a panic in Rust: the server goes on
                outcomes[index] = _failure(error)
        if encoded:
            outcomes |= zip(encoded, self._answers(list(encoded.values())), strict=True)
        return [outcomes[index] for index in range(len(batch))]

    def _answers(self, requests: Sequence[Encoded]) -> list[Outcome]:
        """The answers to each request, or the error of its own."""
        rows = [row for own, _ in requests for row in own]
        encodings = [encoding for _, own in requests for encoding in own]
        most = self._limits.max_batch
        try:
            for start in range(0, len(rows), most):
                self._metrics.batch.observe(min(most, len(rows) - start))
            answers = self._deployment.answers(rows, encodings, most)
            if len(answers) != len(rows):
                raise RuntimeError(f"the task gave {len(answers)} answers to {len(rows)} texts")
        except BaseException as error:  # of any kind: the server goes on
            if len(requests) == 1:
                return [_failure(error)]
            # The text of one request must not fail the others.
            return [outcome for each in requests for outcome in self._answers([each])]
        each_answer = iter(answers)
        return [list(islice(each_answer, len(own))) for own, _ in requests]


def _not_ready() -> Refusal:
    return Refusal(503, "the server is starting, stopping or has failed; send the request again")


def _failure(error: BaseException) -> Exception:
    """What a request is answered with, which is raised for no other.

    A UserError is about its texts, unless the runtime failed: a text was answered at the start.
    """
    if isinstance(error, UserError) and not isinstance(error, RuntimeFailed):
        return Refusal(422, str(error))
    # Not the error itself: a future takes no StopIteration.
    failure = RuntimeError(f"{type(error).__name__}: {first_line(error)}")
    failure.__cause__ = error
    return failure
