"""DeepSparse's own pipeline runs a deployment folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from deepsparse_pipeline import pipeline_answers
from run_folder import quantization, write_run

from sparsekit.onnx.export import ExportConfig, export
from sparsekit.runtime.answers import predict
from sparsekit.sparseml.peer import peer_python

pytestmark = pytest.mark.skipif(peer_python() is None, reason="no peer environment: make peer-env")
CLASSIFIERS = """
pipeline = Pipeline.create(task="sentiment-analysis", model_path="deployment/")
print(json.dumps(pipeline(given).labels))
"""


@pytest.mark.slow
def test_the_pipeline_answers_as_we_do(tmp_path: Path, student_folder: str) -> None:
    (tmp_path / "run").mkdir()
    run = write_run(tmp_path / "run", student_folder, quantization())
    export(run, ExportConfig(form="deepsparse", verify=False))
    texts = ["a moving , beautifully acted film .", "the plot is dull ."]
    expected = [answer["label"] for answer in predict(run / "deployment", texts)]
    assert pipeline_answers(CLASSIFIERS, run / "deployment", tmp_path, texts) == expected


@pytest.mark.slow
def test_a_run_on_rotten_tomatoes_is_accurate(tmp_path: Path) -> None:
    """Needs a run on Rotten Tomatoes: SPARSEKIT_REVIEWS_RUN names its folder."""
    named = os.environ.get("SPARSEKIT_REVIEWS_RUN")
    if named is None:
        pytest.skip("SPARSEKIT_REVIEWS_RUN names no run folder on Rotten Tomatoes")
    ignored = shutil.ignore_patterns("checkpoints", "deployment")
    run = Path(shutil.copytree(named, tmp_path / "run", ignore=ignored))
    export(run, ExportConfig(form="deepsparse"))
    texts = ["I loved that new monster movie!", "What a waste of time."]
    labels = pipeline_answers(CLASSIFIERS, run / "deployment", tmp_path, texts)
    assert labels in (["1", "0"], ["positive", "negative"])
