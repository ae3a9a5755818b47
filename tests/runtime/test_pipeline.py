"""`sparsekit.Pipeline` called with text, like transformers' pipeline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiler import needs_compiler
from run_folder import LABELS, quantization, write_run

from sparsekit.errors import UserError
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.runtime.answers import predict
from sparsekit.runtime.base import Inputs, Runtime
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.runtime.pipeline import Pipeline
from sparsekit.runtime.sparse.runtime import SparseRuntime

TEXTS = ["the plot is dull .", "this film is truly warm , and it shows ."]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), student_folder, quantization())
    export(run, ExportConfig(max_metric_drop=0.1))
    shutil.copytree(run / "deployment", run / "copied")
    return run / "copied"


@pytest.fixture(scope="module")
def pipeline(deployment: Path) -> Pipeline:
    return Pipeline(deployment)


def test_one_text_gives_one_answer_in_a_list(pipeline: Pipeline, deployment: Path) -> None:
    [answer] = pipeline(TEXTS[0])
    assert list(answer) == ["label", "score"]
    [expected] = predict(deployment, TEXTS[:1])
    assert answer == {"label": expected["label"], "score": expected["score"]}
    assert pipeline.labels == LABELS


def test_a_list_is_answered_in_its_order(pipeline: Pipeline) -> None:
    texts = [TEXTS[row % 2] for row in range(7)]
    answers = pipeline(texts, batch_size=3)
    alone = [pipeline(text)[0] for text in TEXTS]
    assert [answer["label"] for answer in answers] == [alone[row % 2]["label"] for row in range(7)]
    np.testing.assert_allclose(
        [answer["score"] for answer in answers],
        [alone[row % 2]["score"] for row in range(7)],
        atol=1e-5,
    )
    assert alone[0]["score"] != alone[1]["score"]


def test_threads_and_batch_size_reach_the_runtime(
    deployment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, sizes = list[int](), list[int]()

    class Recorded(OnnxRuntime):
        def __init__(self, model: Path, count: int) -> None:
            threads.append(count)
            super().__init__(model, count)

        def outputs(self, inputs: Inputs) -> tuple[np.ndarray, ...]:
            sizes.append(len(inputs["input_ids"]))
            return super().outputs(inputs)

    monkeypatch.setattr("sparsekit.runtime.pipeline.runtime_named", lambda _: Recorded)
    pipeline = Pipeline(deployment, threads=1, batch_size=3)
    pipeline(TEXTS * 2)
    pipeline(TEXTS * 2, batch_size=2)
    monkeypatch.setattr("sparsekit.runtime.deployment.cores", lambda: 2)
    Pipeline(deployment)
    assert threads == [1, 2] and sizes == [3, 1, 2, 2]


def test_top_k_gives_more_labels_best_first(pipeline: Pipeline) -> None:
    [every] = pipeline(TEXTS[0], top_k=None)
    assert sorted(answer["label"] for answer in every) == LABELS
    assert every[0]["score"] >= every[1]["score"]
    assert every[0] == pipeline(TEXTS[0])[0]
    assert pipeline(TEXTS[0], top_k=2) == [every]


@pytest.fixture(params=[True, False, None])
def pairs(request: pytest.FixtureRequest) -> bool | None:
    """Whether a model was trained on pairs; None of deployments that do not say so."""
    found: bool | None = request.param
    return found


@pytest.fixture
def of_pairs(deployment: Path, tmp_path: Path, pairs: bool | None) -> Pipeline:
    """The model as one that was trained on pairs, or not."""
    folder = shutil.copytree(deployment, tmp_path / "deployment")
    task = json.loads((folder / "task.json").read_text())
    assert task["pairs"] is False
    task.pop("pairs")
    (folder / "task.json").write_text(
        json.dumps(task if pairs is None else task | {"pairs": pairs})
    )
    return Pipeline(folder)


def test_pairs_as_tuples_or_mappings(of_pairs: Pipeline, pairs: bool | None) -> None:
    first, second = TEXTS
    if pairs is False:
        with pytest.raises(UserError, match=r"text 2 of 2 has a second text, and .* single texts;"):
            of_pairs([first, (first, second)])
        return
    [one] = of_pairs((first, second))
    assert of_pairs([(first, second)]) == [one]
    assert of_pairs({"text": first, "text_pair": second}) == [one]
    assert of_pairs((first, ""))[0]["score"] != one["score"]


def test_single_texts_for_a_model_of_pairs(of_pairs: Pipeline, pairs: bool | None) -> None:
    if pairs:
        with pytest.raises(UserError, match=r"text 1 of 1 has no second text, and .* on pairs;"):
            of_pairs(TEXTS[0])
    else:
        assert of_pairs(TEXTS[0])[0]["label"] in LABELS


def test_a_message_does_not_repeat_a_long_text(pipeline: Pipeline) -> None:
    with pytest.raises(UserError, match="text 1 of 1 is empty") as raised:
        pipeline(" " * 100_000)
    assert len(str(raised.value)) < 200


def test_a_run_folder_holds_its_deployment(deployment: Path, pipeline: Pipeline) -> None:
    assert Pipeline(str(deployment.parent))(TEXTS) == pipeline(TEXTS)


@needs_compiler
def test_sparsekits_own_runtime(deployment: Path, pipeline: Pipeline) -> None:
    [own] = Pipeline(deployment, runtime="sparse", threads=1)(TEXTS[0])
    assert own["score"] == pytest.approx(pipeline(TEXTS[0])[0]["score"], abs=0.05)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([], {}, "there are no texts"),
        ("", {}, "text 1 of 1 is empty"),
        ([TEXTS[0], " "], {}, "text 2 of 2 is empty"),
        (3, {}, "takes a text or a list of texts, not the int 3"),
        (None, {}, "takes a text or a list of texts, not None"),
        (b"fine", {}, r"not bytes \(decode them: data\.decode\(\)\)"),
        ([3], {}, "row 1 is the int 3, not a text or a pair"),
        (["fine", None], {}, "row 2 is None, not a text or a pair"),
        ([["fine", "too"]], {}, r"row 1 is the list \['fine', 'too'\], not a text"),
        ([[]], {}, r"row 1 is the list \[\]"),
        ([b"fine"], {}, "row 1 is bytes"),
        (("fine", 3), {}, "row 1 is the int 3"),
        ([{"text": None}], {}, "row 1 is None"),
        (("a", "b", "c"), {}, "row 1: a pair has two texts, this one has 3"),
        ({"text": "a", "pair": "b"}, {}, "row 1 has the keys 'text', 'pair'"),
        ({}, {}, "row 1 has the keys none"),
        ("fine", {"top_k": 0}, "top_k is 0"),
        ("fine", {"top_k": True}, "top_k is True, it must be a whole number, at least 1, or None"),
        ("fine", {"batch_size": 0}, "batch_size is 0"),
        ({"text": "a", "context": "b"}, {}, "row 1 has the keys 'text', 'context'"),
    ],
)
def test_inputs_that_are_refused(
    pipeline: Pipeline, inputs: Any, options: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pipeline(inputs, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "torch"}, "there is no runtime 'torch'; choose one of onnxruntime"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5, it must be a whole number"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": "2"}, "threads is '2', it must be a whole number, at least 1, or None"),
        ({"threads": 100_000}, "threads is 100000"),
    ],
)
def test_wrong_settings(deployment: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pipeline(deployment, **options)


@pytest.mark.parametrize("kind", [OnnxRuntime, OpenVinoRuntime, SparseRuntime])
def test_threads_share_a_pipeline(deployment: Path, kind: type[Runtime]) -> None:
    """As a web application's handlers do."""
    if install := kind.missing():
        pytest.skip(f"{kind.name} is not installed: {install}")
    pipeline = Pipeline(deployment, runtime=kind.name, threads=1)
    texts = [" ".join(["the plot is warm"] * count) for count in range(1, 9)]
    alone = [pipeline(text)[0]["score"] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = [found[0]["score"] for found in pool.map(pipeline, texts * 25)]
    np.testing.assert_allclose(together, alone * 25, atol=1e-6)


def test_a_folder_without_a_deployment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a deployment folder"):
        Pipeline(tmp_path)


def test_no_torch_is_imported(deployment: Path) -> None:
    program = (
        "import sys\n"
        "from sparsekit.runtime.pipeline import Pipeline\n"
        f"print(Pipeline({str(deployment)!r})('a warm film')[0]['label'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'hydra'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in LABELS
