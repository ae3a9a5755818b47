"""Batches of the texts of concurrent requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tokenizers import Encoding

from sparsekit.errors import UserError
from sparsekit.runtime.deployment import Deployment
from sparsekit.runtime.tasks.base import Answer, Row
from sparsekit.serving.limits import Limits
from sparsekit.serving.metrics import ModelMetrics
from sparsekit.serving.refusals import Refusal

Outcome = list[Answer] | Exception


@dataclass(frozen=True, eq=False)
class Waiting:
    """The texts of one request, and the future of their answers."""

    rows: Sequence[Row]
    answers: asyncio.Future[list[Answer]]


class Batcher:
    """Answers requests in the order in which they came, several at once.

    A batch is what has come while the one before it was computed, and within `max_wait_ms` more, up
    to `max_batch` texts. One thread computes, since tokenizer and runtime serve one caller.
    """

    def __init__(self, deployment: Deployment, limits: Limits, metrics: ModelMetrics) -> None:
        self._deployment, self._limits, self._metrics = deployment, limits, metrics
        self._queue: asyncio.Queue[Waiting | None] = asyncio.Queue()
        self._waiting, self._open = 0, False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer; within the event loop."""
        self._open = True
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def stop(self) -> None:
        """Answer what was accepted, and end."""
        self._open = False
        self._queue.put_nowait(None)
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """The answer to each row. Raises Refusal where the queue is full or a text is wrong."""
        if not self._open:
            raise Refusal(503, "the server is stopping or starting; send the request again")
        if self._waiting + len(rows) > self._limits.max_queue:
            raise Refusal(
                503,
                f"{self._waiting} texts wait, and at most {self._limits.max_queue} may; send the "
                "request again later",
            )
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._count(len(rows))
        self._queue.put_nowait(Waiting(rows, future))
        return await future

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while (batch := await self._next_batch()) is not None:
            self._count(-sum(len(each.rows) for each in batch))
            wanted = [each for each in batch if not each.answers.cancelled()]
            outcomes = await loop.run_in_executor(self._thread, self._compute, wanted)
            for each, outcome in zip(wanted, outcomes, strict=True):
                if each.answers.cancelled():
                    continue  # The client hung up meanwhile.
                if isinstance(outcome, Exception):
                    each.answers.set_exception(outcome)
                else:
                    each.answers.set_result(outcome)

    async def _next_batch(self) -> list[Waiting] | None:
        """The next requests, at least one; None at the end."""
        first = await self._queue.get()
        if first is None:
            return None
        batch, rows = [first], len(first.rows)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.max_wait_ms / 1000
        while rows < self._limits.max_batch:
            try:
                async with asyncio.timeout_at(until):
                    following = await self._queue.get()
            except TimeoutError:
                break
            if following is None:
                self._queue.put_nowait(None)
                break
            batch.append(following)
            rows += len(following.rows)
        return batch

    def _count(self, rows: int) -> None:
        self._waiting += rows
        self._metrics.queue.set(self._waiting)

    def _compute(self, batch: Sequence[Waiting]) -> list[Outcome]:
        """The answers to each request of a batch, or its error; in the batcher's thread."""
        encoded = [self._encode(each.rows) for each in batch]
        good = [i for i, found in enumerate(encoded) if not isinstance(found, Exception)]
        rows = [row for i in good for row in batch[i].rows]
        outcomes: list[Outcome] = [f if isinstance(f, Exception) else [] for f in encoded]
        if not rows:
            return outcomes
        encodings = [e for f in encoded if not isinstance(f, Exception) for e in f]
        self._metrics.batch.observe(len(rows))
        try:
            answers = iter(self._deployment.answers(rows, encodings, self._limits.max_batch))
        except Exception as error:  # of any kind: the server goes on
            return [outcomes[i] if i not in good else error for i in range(len(batch))]
        for i in good:
            outcomes[i] = [next(answers) for _ in batch[i].rows]
        return outcomes

    def _encode(self, rows: Sequence[Row]) -> list[Encoding] | Exception:
        """The tokens of one request; its error does not touch the others of its batch."""
        try:
            return self._deployment.encode(rows)
        except UserError as error:
            return Refusal(422, str(error))
        except Exception as error:  # of any kind: the server goes on
            return error
