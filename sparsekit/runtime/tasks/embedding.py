"""Embeddings: a vector of length 1 for each text, near to those of similar texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tokenizers import Encoding

from sparsekit.errors import UserError
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.tasks.base import Answer, Answers, Outputs, Row
from sparsekit.runtime.tasks.card import CardParts

EXAMPLE = '--json "Write a text of your own here."'
INPUTS = '["Write a text of your own here.", "And a second one here."]'


@dataclass(kw_only=True)
class EmbeddingAnswers(Answers):
    """`embedding`, a list of floats: the graph pools and normalizes."""

    outputs: ClassVar[tuple[str, ...]] = ("sentence_embedding",)
    columns: ClassVar[tuple[str, ...]] = ("text",)

    pairs: bool | None = False

    def encode(
        self, encoder: TextEncoder, texts: Sequence[str], pairs: Sequence[str | None] | None
    ) -> list[Encoding]:
        if pairs is not None and any(pair is not None for pair in pairs):
            raise UserError("a model of embeddings reads single texts: give both texts of a pair")
        return encoder.encode(texts)

    def encode_table(self, encoder: TextEncoder, columns: Any) -> list[Encoding]:
        return encoder.encode(columns["text"])

    def width(self, encoder: TextEncoder) -> int | None:
        return None

    def answers(
        self,
        encoder: TextEncoder,
        rows: Sequence[Row],
        encodings: Sequence[Encoding],
        outputs: Outputs,
    ) -> list[Answer]:
        return [{"embedding": row.tolist()} for row in outputs["sentence_embedding"]]

    def single(self, answer: Answer) -> Any:
        return answer["embedding"]

    def labels(self, encoder: TextEncoder) -> list[str]:
        return []

    def similarities(self, query: Answer, others: Sequence[Answer]) -> list[float]:
        """The cosine of the angle between the vectors."""
        vectors = np.array([other["embedding"] for other in others])
        cosines: list[float] = (vectors @ np.array(query["embedding"])).tolist()
        return cosines

    def collected(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return {"embeddings": [answer["embedding"] for answer in answers]}

    def columns_of(self, answer: Answer) -> list[str]:
        return [" ".join(f"{value:.6g}" for value in answer["embedding"])]

    def card(self, labels: Sequence[str], pairs: bool) -> CardParts:
        return CardParts(
            pipeline_tag="feature-extraction",
            description="an encoder of texts as vectors of length 1, near for similar texts",
            example=EXAMPLE,
            inputs=INPUTS,
            code="print(outputs[0] @ outputs[0].T)  # the cosine of each two texts",
            outputs="sentence_embedding\n  `[batch, features]`",
        )

    def agreement(self, outputs: Outputs, recorded: Outputs) -> str:
        ours, theirs = (
            np.asarray(outputs["sentence_embedding"]),
            np.asarray(recorded["sentence_embedding"]),
        )
        return f"mean cosine {float((ours * theirs).sum(axis=1).mean()):.4f}"
