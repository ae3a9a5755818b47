"""Batches of concurrent requests: their size, and what a failure of one does to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sparsekit.errors import UserError
from sparsekit.runtime.base import RuntimeFailed
from sparsekit.serving.batcher import Batcher
from sparsekit.serving.limits import Limits
from sparsekit.serving.metrics import Metrics
from sparsekit.serving.refusals import Refusal

WAITING = 100.0  # ms, in which all requests of a test come


class Panic(BaseException):
    """As a panic in Rust arrives, which is no Exception."""


class Model:
    """Answers a text with itself; what a text names happens instead."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.at_once: set[int] = set()

    def encode(self, rows: Sequence[Any]) -> list[str]:
        texts = [text for text, _ in rows]
        if "unreadable" in texts:
            raise UserError("the text is unreadable")
        if "panic" in texts:
            raise Panic("stride must be strictly less than max_len")
        return texts

    def answers(self, rows: Sequence[Any], encodings: Sequence[str], batch: int) -> list[Any]:
        self.batches.append(len(rows))
        self.at_once.add(batch)
        for text in encodings:
            if text == "infinite":
                raise UserError("the logits of text 1 of 1 are infinite")
            if text == "ended":
                raise RuntimeFailed("the runtime ended; secret path")
            if text == "stop":
                raise StopIteration
            if text == "late panic":
                raise Panic("index out of bounds")
        return [{"text": text} for text in encodings if text != "lost"]


def ask(model: Model, requests: Sequence[Sequence[str]], **limits: Any) -> list[Any]:
    """The outcome of each request; all come at once."""

    async def run() -> list[Any]:
        chosen = Limits(**{"max_wait_ms": WAITING, **limits})
        batcher = Batcher(model, chosen, Metrics().of("m"))  # type: ignore[arg-type]
        batcher.start()
        calls = [batcher.answers([(text, None) for text in texts]) for texts in requests]
        outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
        assert batcher.ready
        assert await batcher.answers([("after", None)]) == [{"text": "after"}]
        await batcher.stop()
        assert not batcher.ready
        return outcomes

    return asyncio.run(run())


def test_a_text_that_fails_fails_its_own_request_alone() -> None:
    texts = ["a", "infinite", "b", "unreadable", "infinite", "ended", "stop", "lost", "c"]
    texts += ["panic", "late panic"]
    outcomes = dict(enumerate(ask(Model(), [[text] for text in texts])))
    for index in (0, 2, 8):
        assert outcomes.pop(index) == [{"text": texts[index]}]
    assert len({id(error) for error in outcomes.values()}) == 8
    for index, message in ((1, "are infinite"), (3, "unreadable"), (4, "are infinite")):
        error = outcomes[index]
        assert isinstance(error, Refusal) and error.status == 422 and message in str(error)
    failures = {5: "RuntimeFailed", 6: "StopIteration", 7: "0 answers to 1 text"}
    for index, message in (failures | {9: "Panic: stride", 10: "Panic: index"}).items():
        error = outcomes[index]
        assert isinstance(error, RuntimeError) and message in str(error)


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([1] * 9, [4, 4, 1]),
        ([3, 3, 1, 2], [3, 4, 2]),
        ([1, 9, 1], [1, 9, 1]),
        ([4, 4], [4, 4]),
    ],
)
def test_a_batch_has_at_most_so_many_texts(sizes: list[int], batches: list[int]) -> None:
    """But a request of more is one of its own, of which the model computes as many at once."""
    model = Model()
    requests = [[f"{i} {j}" for j in range(size)] for i, size in enumerate(sizes)]
    outcomes = ask(model, requests, max_batch=4)
    assert outcomes == [[{"text": text} for text in texts] for texts in requests]
    assert model.batches == [*batches, 1]
    assert model.at_once == {4}


def test_texts_that_the_model_computes_at_once_are_measured() -> None:
    async def run() -> str:
        metrics = Metrics()
        limits = Limits(max_batch=4)
        batcher = Batcher(Model(), limits, metrics.of("m"))  # type: ignore[arg-type]
        batcher.start()
        await batcher.answers([("a", None)] * 10)
        await batcher.stop()
        return metrics.text().decode()

    text = asyncio.run(run())
    assert 'sparsekit_batch_texts_bucket{le="4.0",model="m"} 3.0' in text
    assert 'sparsekit_batch_texts_sum{model="m"} 10.0' in text


def test_requests_that_were_given_up_leave_their_places() -> None:
    model = Model()

    async def run() -> None:
        limits = Limits(max_wait_ms=WAITING, max_queue=4)
        batcher = Batcher(model, limits, Metrics().of("m"))  # type: ignore[arg-type]
        batcher.start()
        for given_up in ("first", "second"):  # more than may wait at once
            call = asyncio.create_task(batcher.answers([(given_up, None)] * 3))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
        kept = asyncio.create_task(batcher.answers([("kept", None)] * 2))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="2 texts wait, and at most 4 may"):
            await batcher.answers([("c", None)] * 3)
        assert len(await asyncio.wait_for(kept, 20)) == 2
        await batcher.stop()

    asyncio.run(run())
    assert model.batches == [2]


def test_nobody_waits_for_a_batcher_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the batch that is computed, nor those that wait, nor those that come."""

    def broken(self: Batcher, batch: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Batcher, "_compute", broken)

    async def run() -> None:
        limits = Limits(max_wait_ms=WAITING, max_batch=2)
        batcher = Batcher(Model(), limits, Metrics().of("m"))  # type: ignore[arg-type]
        batcher.start()
        calls = [batcher.answers([("a", None), ("b", None)]) for _ in range(4)]
        for each in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20):
            assert isinstance(each, Refusal) and each.status == 503
        assert not batcher.ready
        with pytest.raises(Refusal, match="has failed"):
            await batcher.answers([("a", None)])
        await batcher.stop()

    asyncio.run(run())
