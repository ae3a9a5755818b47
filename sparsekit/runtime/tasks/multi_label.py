"""Multi-label classification: any number of labels for each text, or for each pair of texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding

from sparsekit.metrics.multi_label import DEFAULT_THRESHOLD, probabilities_of
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.tasks.base import Answer, Answers, Outputs, Row
from sparsekit.runtime.tasks.card import CardParts
from sparsekit.runtime.tasks.text_classification import (
    EXAMPLE,
    INPUTS,
    PAIR_EXAMPLE,
    PAIR_INPUTS,
)

KEYS = ("label", "score")
CODE = """\
labels = {labels}
for row in 1 / (1 + np.exp(-outputs[0])):
    print([label for label, score in zip(labels, row) if score >= {threshold!r}])\
"""


@dataclass(kw_only=True)
class MultiLabelAnswers(Answers):
    """`labels`, each with its `score` (its probability), the best first, and all `scores`.

    threshold: the least probability of a label that is among `labels`.
    """

    threshold: float = DEFAULT_THRESHOLD

    def answers(
        self,
        encoder: TextEncoder,
        rows: Sequence[Row],
        encodings: Sequence[Encoding],
        outputs: Outputs,
    ) -> list[Answer]:
        return [
            self._answer(dict(zip(encoder.labels, row.tolist(), strict=True)))
            for row in probabilities_of(outputs["logits"])
        ]

    def _answer(self, scores: dict[str, float]) -> Answer:
        return {
            "labels": [each for each in _ranked(scores) if each["score"] >= self.threshold],
            "scores": scores,
        }

    def ranked(self, answer: Answer, top_k: int | None) -> Any:
        """The labels above the threshold for `top_k=1`, the default, as they may be any number."""
        return answer["labels"] if top_k == 1 else _ranked(answer["scores"])[:top_k]

    def predictions(self, answer: Answer) -> list[Any]:
        """All labels: what is above the threshold is for the client to choose."""
        return _ranked(answer["scores"])

    def collected(self, answers: Sequence[Answer]) -> dict[str, Any]:
        found = [answer["labels"] for answer in answers]
        return {key + "s": [[each[key] for each in row] for row in found] for key in KEYS}

    def columns_of(self, answer: Answer) -> list[str]:
        found = [f"{each['label']} {each['score']:.3f}" for each in answer["labels"]]
        return ["; ".join(found) or "-"]

    def card(self, labels: Sequence[str], pairs: bool) -> CardParts:
        return CardParts(
            pipeline_tag="text-classification",
            description=f"which gives {'two texts' if pairs else 'a text'} any number of the "
            f"labels {', '.join(labels)}",
            example=PAIR_EXAMPLE if pairs else EXAMPLE,
            inputs=PAIR_INPUTS if pairs else INPUTS,
            code=CODE.format(labels=json.dumps(list(labels)), threshold=self.threshold),
            outputs="logits\n  `[batch, labels]`",
        )

    def agreement(self, outputs: Outputs, recorded: Outputs) -> str:
        ours, theirs = (
            probabilities_of(each["logits"]) >= self.threshold for each in (outputs, recorded)
        )
        equal = int(np.equal(ours, theirs).all(axis=1).sum())
        return f"{equal} of {len(ours)} rows have equal labels"


def _ranked(scores: dict[str, float]) -> list[dict[str, Any]]:
    """Labels with their scores, the best first."""
    best = sorted(scores, key=scores.__getitem__, reverse=True)
    return [{"label": label, "score": scores[label]} for label in best]
