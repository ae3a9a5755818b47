"""DeepSparse Server: `{"sequences": ...}`, and `{"question": ..., "context": ...}`."""

from __future__ import annotations

from typing import Any

from sparsekit.runtime.tasks.base import Row
from sparsekit.serving.bodies import shown, text_of, texts_of
from sparsekit.serving.models import ServedModel
from sparsekit.serving.refusals import Refusal

KEYS = ("sequences", "question")


async def predict(model: ServedModel, body: dict[str, Any]) -> Any:
    """The answers, each of their values in a list of its own; of a question the answer itself."""
    if "question" in body:
        question = text_of(body["question"], "question")
        [answer] = await model.answers([(question, text_of(body.get("context"), "context"))])
        return answer
    sequences = body["sequences"]
    if isinstance(sequences, str):
        sequences = [sequences]
    if not isinstance(sequences, list):
        raise Refusal(422, f"sequences must be a text or a list, not {shown(sequences)}")
    rows = [_row(each, f"sequences[{i}]") for i, each in enumerate(sequences)]
    return model.deployment.task.collected(await model.answers(rows))


def _row(value: Any, where: str) -> Row:
    if isinstance(value, str):
        return value, None
    texts = texts_of(value, where)
    if len(texts) != 2:
        raise Refusal(422, f"{where} must be a text or a pair of texts, not {shown(value)}")
    return texts[0], texts[1]
