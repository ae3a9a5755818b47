"""Text classification: one label for each text, or for each pair of texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.tasks.base import Answer, Answers, Outputs, Row
from sparsekit.runtime.tasks.card import CardParts

# Not of the data: it may be private, and the card is published.
EXAMPLE = '"Write a text of your own here."'
INPUTS = '["Write a text of your own here.", "And a second one here."]'
PAIR_EXAMPLE = '--pairs "Write a text of your own here." "And a second one here."'
PAIR_INPUTS = '[("Write a text of your own here.", "And a second one here.")]'


class TextClassificationAnswers(Answers):
    """`label`, `score` (its probability) and all `scores`."""

    def answers(
        self,
        encoder: TextEncoder,
        rows: Sequence[Row],
        encodings: Sequence[Encoding],
        outputs: Outputs,
    ) -> list[Answer]:
        return label_scores(encoder.labels, np.asarray(outputs["logits"]))

    def ranked(self, answer: Answer, top_k: int | None) -> Any:
        if top_k == 1:
            return {"label": answer["label"], "score": answer["score"]}
        scores = answer["scores"]
        best = sorted(scores, key=scores.__getitem__, reverse=True)[:top_k]
        return [{"label": label, "score": scores[label]} for label in best]

    def predictions(self, answer: Answer) -> list[Any]:
        ranked: list[Any] = self.ranked(answer, None)
        return ranked

    def collected(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return {
            "labels": [answer["label"] for answer in answers],
            "scores": [answer["score"] for answer in answers],
        }

    def columns_of(self, answer: Answer) -> list[str]:
        return [answer["label"], f"{answer['score']:.3f}"]

    def card(self, labels: Sequence[str], pairs: bool) -> CardParts:
        return CardParts(
            pipeline_tag="text-classification",
            description=f"a text classifier with the labels {', '.join(labels)}",
            example=PAIR_EXAMPLE if pairs else EXAMPLE,
            inputs=PAIR_INPUTS if pairs else INPUTS,
            code=f"labels = {json.dumps(labels)}\n"
            "print([labels[best] for best in outputs[0].argmax(axis=1)])",
            outputs="logits\n  `[batch, labels]`",
        )

    def agreement(self, outputs: Outputs, recorded: Outputs) -> str:
        ours, theirs = np.asarray(outputs["logits"]), np.asarray(recorded["logits"])
        equal = int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        return f"{equal} of {len(ours)} labels equal"


def label_scores(labels: Sequence[str], logits: npt.NDArray[np.float32]) -> list[Answer]:
    """For each row of `logits` [rows, labels] its best `label`, its `score`, and all `scores`.

    >>> [answer] = label_scores(["no", "yes"], np.array([[0.0, 0.0]], dtype=np.float32))
    >>> answer["label"], answer["scores"]
    ('no', {'no': 0.5, 'yes': 0.5})
    """
    results = []
    for row in softmax(logits):
        scores = {label: float(score) for label, score in zip(labels, row, strict=True)}
        best = max(scores, key=scores.__getitem__)
        results.append({"label": best, "score": scores[best], "scores": scores})
    return results


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities over the last axis.

    >>> softmax(np.array([[0.0, 0.0]], dtype=np.float32)).tolist()
    [[0.5, 0.5]]
    """
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities
