"""DeepSparse's own pipeline runs a deployment folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from run_folder import quantization, write_run

from sparsekit.onnx.export import ExportConfig, export
from sparsekit.runtime.answers import predict
from sparsekit.sparseml.peer import peer_python

pytestmark = pytest.mark.skipif(peer_python() is None, reason="no peer environment: make peer-env")
PIPELINE = """
import json, sys
from deepsparse import Pipeline
pipeline = Pipeline.create(task="sentiment-analysis", model_path="deployment/")
print(json.dumps(pipeline(json.loads(sys.argv[1])).labels))
"""


def pipeline_labels(folder: Path, texts: list[str]) -> list[str]:
    """DeepSparse's answers to `texts` from a copy of `folder/deployment`."""
    environment = os.environ | {"NM_DISABLE_ANALYTICS": "True", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(peer_python()), "-c", PIPELINE, json.dumps(texts)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    labels: list[str] = json.loads(done.stdout.splitlines()[-1])
    return labels


@pytest.mark.slow
def test_the_pipeline_answers_as_we_do(tmp_path: Path, student_folder: str) -> None:
    (tmp_path / "run").mkdir()
    run = write_run(tmp_path / "run", student_folder, quantization())
    export(run, ExportConfig(form="deepsparse", verify=False))
    # It rewrites the file that it is given.
    copy = shutil.copytree(run / "deployment", tmp_path / "deployment").parent
    texts = ["a moving , beautifully acted film .", "the plot is dull ."]
    expected = [answer["label"] for answer in predict(run / "deployment", texts)]
    assert pipeline_labels(copy, texts) == expected


@pytest.mark.slow
def test_a_run_on_rotten_tomatoes_is_accurate(tmp_path: Path) -> None:
    """Needs a run on Rotten Tomatoes: SPARSEKIT_REVIEWS_RUN names its folder."""
    named = os.environ.get("SPARSEKIT_REVIEWS_RUN")
    if named is None:
        pytest.skip("SPARSEKIT_REVIEWS_RUN names no run folder on Rotten Tomatoes")
    ignored = shutil.ignore_patterns("checkpoints", "deployment")
    run = Path(shutil.copytree(named, tmp_path / "run", ignore=ignored))
    export(run, ExportConfig(form="deepsparse"))
    copy = shutil.copytree(run / "deployment", tmp_path / "deployment").parent
    labels = pipeline_labels(copy, ["I loved that new monster movie!", "What a waste of time."])
    assert labels in (["1", "0"], ["positive", "negative"])
