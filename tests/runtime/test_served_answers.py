"""What the server makes of the answers of each task."""

from __future__ import annotations

from typing import Any

import pytest

from sparsekit.errors import UserError
from sparsekit.runtime.tasks.base import Answers
from sparsekit.runtime.tasks.embedding import EmbeddingAnswers
from sparsekit.runtime.tasks.multi_label import MultiLabelAnswers
from sparsekit.runtime.tasks.question_answering import QuestionAnsweringAnswers
from sparsekit.runtime.tasks.regression import RegressionAnswers
from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers
from sparsekit.runtime.tasks.token_classification import TokenClassificationAnswers

SCORES = {"label": "no", "score": 0.25, "scores": {"no": 0.25, "yes": 0.75}}
LABELS = {"labels": [{"label": "yes", "score": 0.75}], "scores": {"no": 0.25, "yes": 0.75}}
RANKED = [{"label": "yes", "score": 0.75}, {"label": "no", "score": 0.25}]
ENTITY = {"entity": "PER", "score": 0.5, "start": 0, "end": 1, "text": "A"}
SPAN = {"answer": "A", "score": 0.5, "start": 0, "end": 1}


@pytest.mark.parametrize(
    ("task", "answer", "predictions", "collected"),
    [
        (TextClassificationAnswers(), SCORES, RANKED, {"labels": ["no"], "scores": [0.25]}),
        (MultiLabelAnswers(), LABELS, RANKED, {"labels": [["yes"]], "scores": [[0.75]]}),
        (TokenClassificationAnswers(), {"entities": [ENTITY]}, [ENTITY], [[ENTITY]]),
        (RegressionAnswers(), {"score": 2.5}, [{"score": 2.5}], [{"score": 2.5}]),
        (QuestionAnsweringAnswers(), SPAN, [SPAN], [SPAN]),
        (EmbeddingAnswers(), {"embedding": [1.0]}, [{"embedding": [1.0]}], {"embeddings": [[1.0]]}),
    ],
)
def test_every_task(task: Answers, answer: Any, predictions: Any, collected: Any) -> None:
    assert task.predictions(answer) == predictions
    expected = collected if isinstance(collected, dict) else {"predictions": collected}
    assert task.collected([answer]) == expected


@pytest.mark.parametrize(
    ("task", "answer", "single"),
    [
        (TokenClassificationAnswers(), {"entities": [ENTITY]}, [ENTITY]),
        (RegressionAnswers(), {"score": 2.5}, {"score": 2.5}),
        (QuestionAnsweringAnswers(), SPAN, SPAN),
        (EmbeddingAnswers(), {"embedding": [1.0]}, [1.0]),
    ],
)
def test_a_task_of_one_answer_has_no_top_k(task: Answers, answer: Any, single: Any) -> None:
    assert task.ranked(answer, 1) == single
    for top_k in (3, None):
        with pytest.raises(UserError, match=f"top_k is {top_k}; this model gives one answer"):
            task.ranked(answer, top_k)
