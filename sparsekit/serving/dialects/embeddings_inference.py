"""Text Embeddings Inference: `/predict`, `/embed`, `/rerank`, `/info`."""

from __future__ import annotations

from typing import Any

import sparsekit
from sparsekit.errors import UserError
from sparsekit.metrics.multi_label import probabilities_of
from sparsekit.runtime.tasks.base import Row
from sparsekit.serving.bodies import flag_of, shown, text_of, texts_of
from sparsekit.serving.models import ServedModel
from sparsekit.serving.refusals import Refusal

Body = dict[str, Any]


async def predict(model: ServedModel, body: Body) -> Any:
    """The labels of a text, of a pair `[text, text]`, or of a list of `[text]` and pairs.

    A number is the model's own, unless `raw_scores` is false; a label's score is a probability.
    """
    task = model.deployment.task
    raw = flag_of(body, "raw_scores", task.raw_scores)
    if raw and not task.raw_scores:
        raise Refusal(
            422, f"raw_scores is true; the model {model.name} gives no raw scores: leave it out"
        )
    inputs = body.get("inputs")
    batch = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], list)
    given = inputs if batch and isinstance(inputs, list) else [inputs]
    rows = [_row(each, f"inputs[{i}]" if batch else "inputs") for i, each in enumerate(given)]
    found = [task.predictions(each) for each in await model.answers(rows)]
    if task.raw_scores and not raw:
        found = [[x | {"score": _sigmoid(x["score"])} for x in each] for each in found]
    return found if batch else found[0]


async def embed(model: ServedModel, body: Body) -> list[list[float]]:
    """The vector of each text."""
    inputs = body.get("inputs")
    texts = [inputs] if isinstance(inputs, str) else texts_of(inputs, "inputs")
    if not flag_of(body, "normalize", True):
        raise Refusal(422, "normalize is false; the model's vectors have length 1: leave it out")
    answers = await model.answers([(text, None) for text in texts])
    if "embedding" not in answers[0]:
        raise Refusal(422, f"the model {model.name} gives no embeddings: send texts to /predict")
    return [answer["embedding"] for answer in answers]


async def rerank(model: ServedModel, body: Body) -> list[Body]:
    """The texts by their relevance to the query, the most relevant first.

    `score` is the model's own number, unless `raw_scores` is false.
    """
    query = text_of(body.get("query"), "query")
    texts = texts_of(body.get("texts"), "texts")
    return_text, raw = flag_of(body, "return_text", False), flag_of(body, "raw_scores", True)
    task = model.deployment.task
    answers = await model.answers([(query, text) for text in texts])
    try:
        scores = [task.relevance(answer) for answer in answers]
    except UserError as error:
        raise Refusal(
            422, f"the model {model.name} gives pairs no number to order them by; use /predict"
        ) from error
    order = sorted(range(len(texts)), key=lambda index: -scores[index])
    shown_scores = scores if raw else [_sigmoid(score) for score in scores]
    ranked: list[Body] = [{"index": index, "score": shown_scores[index]} for index in order]
    if return_text:
        ranked = [each | {"text": texts[each["index"]]} for each in ranked]
    return ranked


def info(model: ServedModel) -> Body:
    """The model and the server's limits."""
    deployment, limits = model.deployment, model.limits
    return {
        "model_id": model.name,
        "model_type": type(deployment.task).__name__.removesuffix("Answers"),
        "labels": deployment.task.labels(deployment.encoder),
        "runtime": deployment.runtime.name,
        "max_input_length": deployment.encoder.max_length,
        "max_client_batch_size": limits.largest_request,
        "max_batch_requests": limits.max_batch,
        "auto_truncate": True,
        "version": sparsekit.__version__,
    }


def _sigmoid(score: float) -> float:
    """What Text Embeddings Inference makes of a number by default."""
    return float(probabilities_of(score))


def _row(value: Any, where: str) -> Row:
    if isinstance(value, str):
        return value, None
    if isinstance(value, list) and 1 <= len(value) <= 2:
        text, *pair = texts_of(value, where)
        return text, pair[0] if pair else None
    raise Refusal(422, f"{where} must be a text or a list of 1 or 2 texts, not {shown(value)}")
