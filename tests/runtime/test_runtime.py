"""Answers, timings and errors of a runtime on a deployment folder alone, without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import onnx
import pytest
from compiler import needs_compiler
from run_folder import LABELS, MAX_LENGTH, quantization, write_run

from sparsekit.benchmark.requests import BenchmarkConfig, benchmark
from sparsekit.errors import UserError
from sparsekit.onnx.check import AS_UINT8, int8_operands
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.runtime.answers import predict
from sparsekit.runtime.deepsparse import _shapes
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.runtime.tasks.text_classification import softmax
from sparsekit.system import int8_sums_overflow

TEXTS = ["the plot is dull .", "this film is truly warm , and it shows ."]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), student_folder, quantization())
    export(run, ExportConfig(max_metric_drop=0.1))
    return run


@pytest.fixture
def deployment(run: Path, tmp_path: Path) -> Path:
    """A copy of the deployment folder without the run folder around it."""
    return Path(shutil.copytree(run / "deployment", tmp_path / "anywhere"))


def test_predict(deployment: Path) -> None:
    results = predict(deployment, TEXTS)
    assert len(results) == len(TEXTS)
    for result in results:
        assert list(result["scores"]) == LABELS
        assert sum(result["scores"].values()) == pytest.approx(1, abs=1e-6)
        assert (
            result["score"] == max(result["scores"].values()) == result["scores"][result["label"]]
        )


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        (OnnxRuntime, r"onnxruntime cannot load .*; the file was changed"),
        (OpenVinoRuntime, r"OpenVINO cannot load .*; the file may be cut short"),
    ],
)
def test_a_graph_with_a_name_that_is_no_text(
    deployment: Path, capfd: pytest.CaptureFixture[str], runtime: Any, message: str
) -> None:
    """The library's message quotes the name, and cannot be decoded."""
    file = deployment / "model.onnx"
    graph = file.read_bytes()
    file.write_bytes(graph.replace(b"Gather", b"\xffather", 1))
    with pytest.raises(UserError, match=message):
        runtime(file, threads=1)
    assert capfd.readouterr().out == ""


def test_a_config_that_is_nested_too_deeply(deployment: Path) -> None:
    (deployment / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(UserError, match=r"config\.json is not JSON \(it is nested too deeply\)"):
        predict(deployment, TEXTS)


def test_labels_without_names(deployment: Path) -> None:
    config = json.loads((deployment / "config.json").read_text())
    del config["id2label"]
    (deployment / "config.json").write_text(json.dumps(config))
    assert predict(deployment, TEXTS)[0]["label"] in ("LABEL_0", "LABEL_1")


def test_a_damaged_graph_has_no_shapes_for_deepsparse(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07garbage")
    with pytest.raises(UserError, match=r"finds the shapes for DeepSparse, cannot load"):
        _shapes(tmp_path / "model.onnx")


def test_the_batch_does_not_change_an_answer(deployment: Path) -> None:
    texts = [str(row["text"]) for row in hub_seed.reviews(40, seed=1)]
    together = [next(iter(answer["scores"].values())) for answer in predict(deployment, texts)]
    alone = [next(iter(predict(deployment, [text])[0]["scores"].values())) for text in texts]
    assert together == pytest.approx(alone, abs=1e-5)
    assert np.ptp(together) > 1e-3


def test_softmax_of_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0]], np.float32)), [[1.0, 0.0]])


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_text(deployment: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"text 2 of 2 is empty"):
        predict(deployment, ["fine", text])


def test_long_text_is_cut(deployment: Path) -> None:
    words = ["film"] * 500
    encoder = TextEncoder(deployment)
    assert encoder.max_length == MAX_LENGTH
    [encoding] = encoder.encode([" ".join(words)])
    assert len(encoding) == MAX_LENGTH
    long, cut = predict(deployment, [" ".join(words), " ".join(words[: MAX_LENGTH - 2])])
    assert long["scores"] == pytest.approx(cut["scores"], abs=1e-6)


def test_padding_is_that_of_the_model(deployment: Path) -> None:
    config = json.loads((deployment / "config.json").read_text())
    (deployment / "config.json").write_text(json.dumps({**config, "pad_token_id": 4}))
    encoder = TextEncoder(deployment)
    batch = encoder.batch(encoder.encode(TEXTS))
    assert set(batch["input_ids"][0][batch["attention_mask"][0] == 0]) == {4}
    assert batch["input_ids"].dtype == np.int64


def test_padding_and_truncation_follow_the_tokenizer(deployment: Path) -> None:
    file = deployment / "tokenizer_config.json"
    sides = {"padding_side": "left", "truncation_side": "left", "pad_token_type_id": 3}
    file.write_text(json.dumps(json.loads(file.read_text()) | sides | {"model_max_length": 4}))
    encoder = TextEncoder(deployment)
    batch = encoder.batch(encoder.encode(["dull", "the plot is dull"]))
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[3, 0, 0, 0], [0, 0, 0, 0]]
    # The end of the text stays.
    assert batch["input_ids"][0, 2] == batch["input_ids"][1, 2]


def test_not_a_deployment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*config.json: not a deployment folder"):
        predict(tmp_path, TEXTS)


def test_no_graph(deployment: Path) -> None:
    (deployment / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"there is no .*model.onnx; export the run first"):
        predict(deployment, TEXTS)


def test_truncated_graph(deployment: Path) -> None:
    file = deployment / "model.onnx"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"model.onnx is not a valid ONNX file: .*truncated"):
        predict(deployment, TEXTS)


def test_damaged_config(deployment: Path) -> None:
    (deployment / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        predict(deployment, TEXTS)


def test_overflow_setting_follows_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    units = {"avx2": True, "avx512_vnni": False, "avx_vnni": False}
    for flags, expected in ((units, True), ({**units, "avx_vnni": True}, False), (None, False)):
        monkeypatch.setattr("sparsekit.system.cpu_units", lambda flags=flags: flags)
        assert int8_sums_overflow() is expected


def test_uint8_weights_answer_alike(
    deployment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, file = predict(deployment, TEXTS), deployment / "model.onnx"
    monkeypatch.setattr("sparsekit.runtime.onnxruntime.int8_sums_overflow", lambda: False)
    int8 = int8_operands(file)
    monkeypatch.setattr("sparsekit.runtime.onnxruntime.int8_sums_overflow", lambda: True)
    for actual, wanted in zip(predict(deployment, TEXTS), expected, strict=True):
        assert actual["scores"] == pytest.approx(wanted["scores"], abs=1e-5)
    found = int8_operands(file)
    OnnxRuntime(file, threads=1, optimized=tmp_path / "optimized.onnx")
    weights = onnx.load(tmp_path / "optimized.onnx").graph.initializer
    kinds = {each.data_type for each in weights if each.name.endswith(AS_UINT8)}
    assert kinds == {onnx.TensorProto.UINT8}
    assert found == int8


def test_benchmark(run: Path) -> None:
    config = BenchmarkConfig(requests=5, batches=2, batch_size=8, warmup=1, threads=1)
    timing = benchmark(run, config)
    assert timing.keys() == {"onnxruntime"}
    values = timing["onnxruntime"]
    assert values.keys() == {"latency_ms_p50", "latency_ms_p99", "items_per_second"}
    assert 0 < values["latency_ms_p50"] <= values["latency_ms_p99"]
    assert values["items_per_second"] > 0
    details = json.loads((run / "benchmark.json").read_text())
    recorded = details["runtimes"]["onnxruntime"]
    assert values.items() <= recorded.items()
    assert recorded["threads"] == 1
    assert (len(recorded["latency_ms"]), len(recorded["batch_ms"])) == (5, 2)
    assert 4 < details["tokens"]["p50"] <= details["tokens"]["p99"] <= MAX_LENGTH
    assert details["tokenize_ms"] > 0


def test_benchmark_of_a_folder_that_is_not_a_run(deployment: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*validation.parquet"):
        benchmark(deployment, BenchmarkConfig())


@pytest.mark.parametrize("field", ["requests", "batches", "batch_size"])
def test_benchmark_config_is_checked(field: str) -> None:
    with pytest.raises(UserError, match=rf"runtime.{field} is 0"):
        BenchmarkConfig(**{field: 0})


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(UserError, match=r"runtime.threads is 100000, this machine has \d+ cores"):
        BenchmarkConfig(threads=100_000)


def test_runtime_imports_no_torch(run: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from sparsekit.runtime.answers import predict\n"
        "from sparsekit.benchmark.requests import BenchmarkConfig, benchmark\n"
        "run = pathlib.Path(sys.argv[1])\n"
        "predict(run / 'deployment', ['a warm film'])\n"
        "benchmark(run, BenchmarkConfig(requests=1, batches=1, batch_size=1, warmup=0))\n"
        "loaded = {'torch', 'transformers', 'datasets', 'onnx'} & set(sys.modules)\n"
        "sys.exit(f'imported {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("sparse", marks=needs_compiler)])
def test_predicting_leaves_nothing_in_the_home_folder(
    deployment: Path, tmp_path: Path, runtime: str
) -> None:
    """onnxruntime would store a device id and a queue of events there."""
    home = tmp_path / "home"
    home.mkdir()
    kept = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in kept}
    environment |= {"HOME": str(home), "SPARSEKIT_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "sparsekit", "predict", str(deployment)]
    command += ["--runtime", runtime, "a warm film"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert [str(path) for path in home.rglob("*")] == []


def test_model_cards_code_runs_as_written(deployment: Path) -> None:
    card = (deployment / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=deployment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    texts = re.findall(r'encode_batch\(\["(.*?)", "(.*?)"\]\)', code)[0]
    assert done.stdout.strip() == str([result["label"] for result in predict(deployment, texts)])


def test_session_threads_are_set_and_recorded(deployment: Path) -> None:
    runtime = OnnxRuntime(deployment / "model.onnx", threads=2)
    assert runtime.describe()["threads"] == 2
    assert runtime._session.get_session_options().intra_op_num_threads == 2
