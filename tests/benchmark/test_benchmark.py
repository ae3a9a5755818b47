"""Every runtime answers alike, and `sparsekit benchmark` times them beside the dense baselines."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from compiler import needs_compiler
from exported import logits_and_recorded
from onnx import numpy_helper
from project import GOLDEN
from rich.table import Table
from run_folder import quantization, write_run
from transformers import PreTrainedModel
from typer.testing import CliRunner

from sparsekit.benchmark import candidates as candidates_module
from sparsekit.benchmark.advice import advice, size_advice
from sparsekit.benchmark.candidates import DENSE, DYNAMIC, Candidate, candidates
from sparsekit.benchmark.grid import Grid, example, time_all
from sparsekit.benchmark.requests import BenchmarkConfig, _timings, benchmark
from sparsekit.cli import benchmark as command
from sparsekit.cli.app import app
from sparsekit.errors import UserError
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime import openvino as openvino_module
from sparsekit.runtime.answers import predict_outputs
from sparsekit.runtime.deepsparse import DeepSparseRuntime
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.runtime.tasks.file import read_task
from sparsekit.sparseml.peer import peer_python
from sparsekit.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=64)

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)
needs_peer = pytest.mark.skipif(peer_python() is None, reason="no peer environment: make peer-env")
LOOSE = {"max_metric_drop": 0.1}


def exported(folder: Path, student: str, form: str) -> Path:
    run = write_run(folder, student, quantization())
    result = export(run, ExportConfig(form=form, **LOOSE))
    (run / "summary.json").write_text(json.dumps({"status": "completed", "export": result}))
    return run


@pytest.fixture(scope="module")
def qdq(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    return exported(tmp_path_factory.mktemp("qdq"), student_folder, "qdq")


@pytest.fixture(scope="module")
def deepsparse(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    return exported(tmp_path_factory.mktemp("deepsparse"), student_folder, "deepsparse")


def check_answers(run: Path, runtime: Any) -> None:
    """The runtime's logits on the validation rows are onnxruntime's, but for int8 steps."""
    expected, _ = logits_and_recorded(run, 16)
    encoder = TextEncoder(run / "deployment")
    texts = pq.read_table(run / "evaluation" / "validation.parquet")["text"].to_pylist()
    answers, encodings = read_task(run / "deployment"), encoder.encode(texts)
    outputs = predict_outputs(runtime, answers, encoder, encodings, batch=16)
    actual = np.asarray(outputs["logits"])
    assert np.abs(actual - expected).mean() < 0.2 * expected.std(axis=0).min()
    assert np.corrcoef(actual[:, 0], expected[:, 0])[0, 1] > 0.95


def test_a_run_without_its_texts_is_not_timed(qdq: Path, tmp_path: Path) -> None:
    """A SparseTrainer whose eval_dataset had tokens alone."""
    run = tmp_path / "run"
    shutil.copytree(qdq, run)
    file = run / "evaluation" / "validation.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["text", "text_pair"]), file)
    with pytest.raises(UserError, match="has no texts to time: eval_dataset was tokenized without"):
        benchmark(run, BenchmarkConfig())
    file.write_bytes(b"PAR1 cut short")
    with pytest.raises(UserError, match=r"cannot read .*validation.parquet: .*train again"):
        benchmark(run, BenchmarkConfig())
    file.unlink()
    with pytest.raises(UserError, match="benchmark a run that has a validation split"):
        benchmark(run, BenchmarkConfig())


@needs_openvino
@pytest.mark.usefixtures("openvino_in_float32")
def test_openvino_answers(qdq: Path) -> None:
    runtime = OpenVinoRuntime(qdq / "deployment" / "model.onnx", threads=1)
    check_answers(qdq, runtime)
    assert runtime.describe()["threads"] == 1


@needs_openvino
def test_openvino_and_a_truncated_file(qdq: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes((qdq / "deployment" / "model.onnx").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"model.onnx is not a valid ONNX file"):
        OpenVinoRuntime(file, threads=1)
    with pytest.raises(UserError, match=r"there is no .*other.onnx; export the run first"):
        OpenVinoRuntime(tmp_path / "other.onnx", threads=1)


@needs_compiler
def test_sparse_answers(qdq: Path) -> None:
    check_answers(qdq, SparseRuntime(qdq / "deployment" / "model.onnx", threads=2))


@needs_compiler
@pytest.mark.slow
def test_a_model_that_our_runtime_does_not_run_is_timed_without_it(
    qdq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(candidates_module, "missing", lambda: {"openvino": "", "deepsparse": ""})
    actual = candidates(qdq / "model", TASK, tmp_path)
    assert [candidate.name for candidate in actual] == [DENSE, DYNAMIC, "onnxruntime", "sparse"]
    monkeypatch.setattr(candidates_module, "refusal", lambda file: "it has a node Sinh 'odd'")
    actual = candidates(qdq / "model", TASK, tmp_path)
    assert [candidate.name for candidate in actual] == [DENSE, DYNAMIC, "onnxruntime"]
    assert "not timed: it has a node Sinh 'odd'" in caplog.text


@needs_peer
def test_deepsparse_answers(deepsparse: Path) -> None:
    file = deepsparse / "deployment" / "model.onnx"
    before = file.read_bytes()
    runtime = DeepSparseRuntime(file, threads=1)
    try:
        check_answers(deepsparse, runtime)
        assert runtime.describe()["fraction_of_supported_ops"] == 1.0
    finally:
        runtime.close()
    assert file.read_bytes() == before


@pytest.mark.slow
@needs_peer
def test_deepsparse_pads_no_further_than_the_model_goes(
    tmp_path: Path, student_folder: str
) -> None:
    """Of 100 positions, a row of 70 tokens cannot be padded to 128."""
    run = write_run(tmp_path, student_folder, quantization(), change=shortened)
    export(run, ExportConfig(form="deepsparse", **LOOSE))
    file = run / "deployment" / "model.onnx"
    vocabulary = json.loads((run / "model" / "config.json").read_text())["vocab_size"]
    expected, runtime = OnnxRuntime(file, threads=1), DeepSparseRuntime(file, threads=1)
    try:
        for length in (30, 70, 100):
            inputs = example(2, length, vocabulary)
            assert runtime.run(inputs) == pytest.approx(expected.run(inputs), abs=1e-3)
        with pytest.raises(UserError, match="at most 100 tokens here, not 101"):
            runtime.run(example(1, 101, vocabulary))
    finally:
        runtime.close()


def shortened(model: PreTrainedModel) -> None:
    embeddings = model.bert.embeddings
    embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(
        embeddings.position_embeddings.weight.detach()[:100].clone()
    )
    for name in ("position_ids", "token_type_ids"):
        setattr(embeddings, name, getattr(embeddings, name)[:, :100])
    model.config.max_position_embeddings = 100


@needs_peer
def test_deepsparse_says_what_it_does_not_know(qdq: Path) -> None:
    runtime = DeepSparseRuntime(qdq / "deployment" / "model.onnx", threads=1)
    ids = np.ones((1, 8), np.int64)
    with pytest.raises(UserError, match=r"DeepSparse ended: .*export.form=deepsparse"):
        runtime.run({"input_ids": ids, "attention_mask": ids, "token_type_ids": ids})
    runtime.close()


def test_runtimes_that_are_not_installed(qdq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", "/nowhere/python")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    file = qdq / "deployment" / "model.onnx"
    with pytest.raises(UserError, match=r"DeepSparse is not installed: SPARSEKIT_PEER_PYTHON"):
        DeepSparseRuntime(file, threads=1)
    with pytest.raises(UserError, match=r"pip install 'sparsekit\[openvino\]'"):
        OpenVinoRuntime(file, threads=1)


def test_precision_follows_the_cpu(qdq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    for units, expected in (({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "f32")):
        monkeypatch.setattr(openvino_module, "cpu_units", lambda units=units: units)
        runtime = OpenVinoRuntime(qdq / "deployment" / "model.onnx", threads=1)
        assert runtime.describe()["precision"] == expected


@needs_openvino
@pytest.mark.usefixtures("openvino_in_float32")
def test_with_amx_the_first_inputs_decide_on_packed_weights(
    qdq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are compiled and answer alike; that packing is faster only AMX could show."""
    expected = OpenVinoRuntime(qdq / "deployment" / "model.onnx", threads=1)
    monkeypatch.setattr(openvino_module, "cpu_units", lambda: {"amx_int8": True})
    ids = np.full((1, 16), 7, np.int64)
    inputs = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
    for index in (0, 1):
        chosen: list[int] = []

        def choose(runs: Any, _: Any, index: int = index, chosen: list[int] = chosen) -> int:
            assert len(runs) == 2
            chosen.append(index)
            return index

        monkeypatch.setattr(openvino_module, "fastest", choose)
        runtime = OpenVinoRuntime(qdq / "deployment" / "model.onnx", threads=1)
        for _ in range(2):
            assert np.allclose(runtime.run(inputs), expected.run(inputs), atol=1e-5)
        assert chosen == [index]
        assert runtime.describe()["packed_weights"] is bool(index)


def test_the_fastest_is_chosen() -> None:
    def slow(inputs: Any) -> None:
        time.sleep(0.002)

    assert openvino_module.fastest([slow, lambda inputs: None, slow], {}) == 1


def test_baselines_have_no_zeros(
    qdq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ["openvino", "deepsparse", "sparse"]
    monkeypatch.setattr(candidates_module, "missing", lambda: dict.fromkeys(others, ""))
    actual = candidates(qdq / "model", TASK, tmp_path)
    assert [candidate.name for candidate in actual] == [DENSE, DYNAMIC, "onnxruntime"]
    sizes = [candidate.file.stat().st_size for candidate in actual]
    assert sizes[0] > max(sizes[1:])
    stored = onnx.load(actual[0].file).graph.initializer
    weights = [numpy_helper.to_array(value) for value in stored if len(value.dims) == 2]
    # All but the vector of the padding token.
    assert min(np.count_nonzero(weight) / weight.size for weight in weights) > 0.98
    ours = onnx.load(actual[2].file).graph.initializer
    [query] = [v for v in ours if v.name.endswith("layer.0.attention.self.query.weight_quantized")]
    assert (numpy_helper.to_array(query) == 0).mean() > 0.89


@pytest.mark.slow
def test_benchmark_command(qdq: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(qdq, tmp_path / "run"))
    node = {"_target_": "sparsekit.benchmark.requests.BenchmarkConfig", "requests": 3, "batches": 2}
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"runtime": node}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    sizes = ["--batch", "1", "--batch", "2", "--sequence", "8", "--rounds", "1", "--threads", "1"]
    result = CliRunner().invoke(app, ["benchmark", str(run), *sizes, "--repetitions", "2"])
    assert result.exit_code == 0, result.output
    details = json.loads((run / "benchmark.json").read_text())
    names = [DENSE, DYNAMIC, "onnxruntime", *(["openvino"] if openvino_here() else [])]
    names += ["deepsparse"] if peer_python() else []
    names += ["sparse"] if SparseRuntime.missing() is None else []
    assert [(row["name"], row["batch"]) for row in details["grid"]] == [
        (name, batch) for batch in (1, 2) for name in names
    ]
    for row in details["grid"]:
        assert 0 < row["latency_ms_p50"] <= row["latency_ms_p99"]
        assert row["items_per_second"] > 0
        assert row["threads"] == 1
    assert details["grid"][0]["speedup"] == 1
    files = details["sizes"]
    assert list(files) == names
    assert all(0 < size["bytes_compressed"] < size["bytes"] for size in files.values())
    # The same bytes without zeros, and the zeros are what compresses.
    assert files["onnxruntime"]["bytes_compressed"] < files[DYNAMIC]["bytes_compressed"]
    assert files[DYNAMIC]["bytes"] < files[DENSE]["bytes"]
    assert "of the dense fp32 one; packed with zstd" in result.stdout.replace("\n", " ")
    assert (run / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    runtimes = json.loads((run / "summary.json").read_text())["runtime"]
    # Those that run the deployment's form, all on the same requests.
    assert list(runtimes) == [name for name in names[2:] if name != "deepsparse"]
    assert details["runtimes"].keys() == runtimes.keys()
    keys = {"latency_ms_p50", "latency_ms_p99", "items_per_second"}
    assert all(values.keys() == keys for values in runtimes.values())
    assert details["advice"][0].startswith(("Ship export", "Nothing here is", "A small model"))


def test_sizes_are_checked_before_anything_is_timed(qdq: Path, tmp_path: Path) -> None:
    """The timings of an earlier benchmark stay, those of the runs before the wrong one too."""
    run = Path(shutil.copytree(qdq, tmp_path / "run"))
    (run / "benchmark.json").write_text("{}")
    for words, message in (
        (["--sequence", "1024"], "sequence 1024 is longer than the model's 512 positions"),
        (["--rounds", "0"], "0 among the benchmark's sizes"),
        ([str(tmp_path)], "is not a run folder"),
    ):
        refused = CliRunner().invoke(app, ["benchmark", str(run), *words])
        assert refused.exit_code == 1
        assert message in refused.stderr
    assert (run / "benchmark.json").read_text() == "{}"


def test_what_is_written_while_another_run_is_timed_stays(
    qdq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [RunFolder(Path(shutil.copytree(qdq, tmp_path / name))) for name in "ab"]
    for run in runs:
        run.write_summary({"status": "completed"})

    def timed(*_: object) -> dict[str, object]:
        last = runs[1]
        last.write_summary({**last.summary, "pushed": "https://huggingface.co/me/reviews"})
        return {}

    monkeypatch.setattr("sparsekit.benchmark.requests.benchmark", timed)
    monkeypatch.setattr(command, "_compare", lambda *_: ([], {}, []))
    monkeypatch.setattr(command, "_table", lambda *_: Table())
    monkeypatch.setattr(command, "_sizes", lambda *_: Table())
    done = CliRunner().invoke(app, ["benchmark", *map(str, runs)])
    assert done.exit_code == 0, done.output
    assert runs[1].summary["pushed"] and runs[1].summary["runtime"] == {}


@pytest.mark.slow
def test_threads_hold_for_requests_too_and_sizes_count_once(qdq: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(qdq, tmp_path / "run"))
    node = {"_target_": "sparsekit.benchmark.requests.BenchmarkConfig", "requests": 3, "batches": 2}
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"runtime": node}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    sizes = ["--batch", "1", "--batch", "1", "--sequence", "8", "--sequence", "8", "--rounds", "1"]
    done = CliRunner().invoke(app, ["benchmark", str(run), *sizes, "--threads", "1"])
    assert done.exit_code == 0, done.output
    details = json.loads((run / "benchmark.json").read_text())
    assert details["runtimes"]["onnxruntime"]["threads"] == 1
    names = [row["name"] for row in details["grid"]]
    assert len(names) == len(set(names))
    assert "1 thread;" in done.stdout


def openvino_here() -> bool:
    return importlib.util.find_spec("openvino") is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": [1024]}, "sequence 1024 is longer than the model's 512 positions"),
        ({"batches": [0]}, "0 among the benchmark's sizes"),
        ({"threads": 100_000}, r"--threads is 100000, this machine has \d+ cores; choose"),
    ],
)
def test_grid_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Grid(**changes).fitted(512)


@pytest.mark.parametrize(
    ("positions", "sequences"), [(512, (32, 128)), (64, (32, 64)), (32, (32,)), (16, (16,))]
)
def test_the_grid_fits_the_model(positions: int, sequences: tuple[int, ...]) -> None:
    assert Grid().fitted(positions).sequences == sequences
    assert Grid(sequences=[8]).fitted(positions).sequences == [8]


def row(
    name: str, form: str | None, latency: float, batch: int = 1, dense: float = 80
) -> dict[str, Any]:
    """A row of the grid; `dense` is the baseline's latency at the same size."""
    timing = {"name": name, "form": form, "batch": batch, "sequence": 128}
    return timing | {"latency_ms_p50": latency, "speedup": dense / latency}


def test_advice() -> None:
    rows = [row(DENSE, None, 80), row("onnxruntime", "qdq", 30), row("deepsparse", "deepsparse", 9)]
    sparse = row("sparse", "qdq", 8)
    units = {"amx_int8": False, "avx512_vnni": True, "avx_vnni": False}
    sentences = advice(rows, units, 0.9)
    assert sentences[0].startswith("Ship export.form=deepsparse and run it with deepsparse: 9.00")
    assert "AVX512-VNNI; it has no AMX" in sentences[1]
    on_arm = advice(rows, {"asimddp": True, "i8mm": True}, 0.9)
    assert on_arm[1] == "This CPU multiplies int8 with NEON i8mm and NEON dotprod."
    assert sentences[2].startswith("On deepsparse the zeros bring speed")
    assert sentences[3].startswith("On onnxruntime the zeros reduce the size only")
    sentences = advice([*rows, sparse], units, 0.9)
    assert sentences[0].startswith("Ship export.form=qdq and run it with sparse: 8.00 ms")
    assert "On sparse the zeros bring speed: its kernels skip them." in sentences
    assert "no int8 units" in advice(rows, dict.fromkeys(units, False), 0.9)[1]
    assert "unknown" in advice(rows, None, 0.9)[1]
    assert advice([*rows, row(DYNAMIC, None, 5)], units, 0.9)[0].startswith(
        "Nothing here is faster"
    )


def test_advice_on_zeros() -> None:
    packed = row("openvino", "qdq", 20) | {"packed_weights": True}
    rows = [row(DENSE, None, 80), row("onnxruntime", "qdq", 30), packed]
    sentences = advice(rows, None, 0.9)
    assert sentences[2].startswith("On openvino the zeros bring speed: it reads the weights")
    assert sentences[3].startswith("On onnxruntime the zeros reduce the size only")
    assert advice(rows, None, 0.0)[2].startswith("The model has no zeros to skip")


def test_advice_recommends_no_runtime_that_is_slower() -> None:
    """A runtime that skips zeros and still loses to one that does not has gained nothing."""
    rows = [row(DENSE, None, 80), row("onnxruntime", "qdq", 30)]
    for latency, there in ((4000, "0.02x"), (50, "1.6x")):
        sentences = advice([*rows, row("sparse", "qdq", latency)], None, 0.9)
        assert sentences[0].startswith("Ship export.form=qdq and run it with onnxruntime")
        assert sentences[2] == (
            "On sparse the zeros bring no speed here, though its kernels skip them: "
            f"{there} at batch 1, sequence 128, where onnxruntime reaches 2.7x."
        )
    sentences = advice([row(DENSE, None, 80), row("sparse", "qdq", 100)], None, 0.9)
    assert sentences[0].startswith(f"Nothing here is faster than the baseline '{DENSE}' (80.00 ms")
    assert "sparse with export.form=qdq (100.00 ms, 0.8x the dense" in sentences[0]
    assert f"0.8x at batch 1, sequence 128, where {DENSE} reaches 1.0x" in sentences[2]


def test_advice_follows_every_size_of_the_table() -> None:
    """Zeros that are worth nothing for one request may be worth much for a batch."""
    rows = [
        row(DENSE, None, 0.9, dense=0.9),
        row("onnxruntime", "qdq", 0.3, dense=0.9),
        row("sparse", "qdq", 0.45, dense=0.9),
        row(DENSE, None, 41, 32, dense=41),
        row("onnxruntime", "qdq", 9, 32, dense=41),
        row("sparse", "qdq", 4, 32, dense=41),
    ]
    sentences = advice(rows, None, 0.9)
    assert sentences[0].endswith(
        "is onnxruntime with export.form=qdq: 0.30 ms, 3.0x the dense fp32 model on onnxruntime."
    )
    assert sentences[1] == "Faster at other sizes: sparse at batch 32, sequence 128 (10.2x)."
    assert sentences[3] == (
        "On sparse the zeros bring speed at some sizes: 10.2x at batch 32, sequence 128, where "
        "onnxruntime reaches 4.6x; not 2.0x at batch 1, sequence 128, where onnxruntime reaches "
        "3.0x."
    )
    both = [row("sparse", "qdq", 0.2, dense=0.9) if each is rows[2] else each for each in rows]
    sentences = advice(both, None, 0.9)
    assert "On sparse the zeros bring speed: its kernels skip them." in sentences
    assert not any(sentence.startswith("Faster at other sizes") for sentence in sentences)


def test_advice_follows_the_speed_up() -> None:
    """A busy moment slows a round of all candidates alike, the medians of all runs it does not."""
    lucky = row("onnxruntime", "qdq", 30) | {"speedup": 2.0}
    sentences = advice([row(DENSE, None, 80), lucky, row("sparse", "qdq", 32)], None, 0.9)
    assert sentences[0].startswith("Ship export.form=qdq and run it with sparse: 32.00 ms")
    assert sentences[0].endswith("2.5x the dense fp32 model on onnxruntime.")


def test_advice_on_a_small_model() -> None:
    rows = [row(DENSE, None, 0.9), row("onnxruntime", "qdq", 0.4)]
    sentences = advice(rows, None, 0.9)
    assert sentences[0].startswith("A small model: every runtime answers in 0.40 to 0.90 ms")
    assert "matters little" in sentences[0] and "Ship" not in sentences[0]


def test_size_advice() -> None:
    files = {
        DENSE: {"bytes": 90_000_000, "bytes_compressed": 84_000_000},
        "onnxruntime": {"bytes": 22_500_000, "bytes_compressed": 10_000_000},
    }
    sentence = size_advice(files, DENSE, "onnxruntime")
    assert "22.5 MB, 1/4.0 of the dense fp32 one; packed with zstd 10.0 MB, 1/9.0 of" in sentence


def test_onnxruntime_runs_both_forms(qdq: Path, deepsparse: Path) -> None:
    for run in (qdq, deepsparse):
        check_answers(run, OnnxRuntime(run / "deployment" / "model.onnx", threads=1))


class _Still:
    """A runtime that does nothing, and says that each run took `taken` seconds."""

    name, forms, taken = "still", ("qdq",), 1.0

    def __init__(self, model: Path, threads: int) -> None:
        self.calls: list[str] = []

    def run(self, inputs: Any) -> Any:
        self.calls.append("run")
        return np.zeros((1, 2), np.float32)

    def seconds(self, inputs: Any) -> float:
        self.calls.append("seconds")
        return self.taken

    def describe(self) -> dict[str, Any]:
        return {"version": "1", "threads": 1, "calls": self.calls}


class _Twice(_Still):
    """Twice as fast."""

    name, taken = "twice", 0.5


class _Crashing(_Still):
    name = "crashing"

    def run(self, inputs: Any) -> Any:
        raise UserError("its process ended")


def test_a_runtime_that_cannot_run_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "model.onnx"
    file.touch()
    timed = [
        Candidate(runtime.name, cast(Any, runtime), file) for runtime in (_Still, _Crashing, _Still)
    ]
    grid = Grid(batches=[1], sequences=[8], rounds=1, repetitions=1)
    assert [row["name"] for row in time_all(timed, grid, 10)] == ["still", "still"]
    assert "not timed: crashing: its process ended" in caplog.text
    # What all others are compared with is not left out.
    with pytest.raises(UserError, match="its process ended"):
        time_all(timed[1:], grid, 10)


def test_a_batch_that_does_not_fit_into_memory() -> None:
    with pytest.raises(UserError, match="does not fit into memory; choose a smaller --batch"):
        example(10**12, 512, 10)


def test_what_is_computed_from_the_seconds(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.touch()
    timed = [Candidate(runtime.name, cast(Any, runtime), file) for runtime in (_Still, _Twice)]
    grid = Grid(batches=[3], sequences=[8], rounds=2, repetitions=2)
    for row, seconds in zip(time_all(timed, grid, 10), (1.0, 0.5), strict=True):
        assert row["latency_ms_p50"] == row["latency_ms_p99"] == seconds * 1000
        assert row["items_per_second"] == 3 / seconds
        assert row["speedup"] == 1 / seconds
        # Each turn begins with a run that is not timed; the first run of all loads the model.
        assert row["calls"] == ["run", *["run", "seconds", "seconds"] * 2]


def test_what_is_computed_of_requests() -> None:
    encoder = TextEncoder(GOLDEN / "old_run" / "deployment")
    config = BenchmarkConfig(requests=3, batches=2, batch_size=4, warmup=5)
    encodings = encoder.encode(["the plot is dull .", "the cast is warm"])
    found = _timings(cast(Any, _Twice(GOLDEN, 1)), encoder, encodings, config)
    assert found["latency_ms_p50"] == found["latency_ms_p99"] == 500
    assert found["items_per_second"] == 4 / 0.5
    assert found["latency_ms"] == [500] * 3 and found["batch_ms"] == [500] * 2
    warm = ["run"] * 5
    assert found["calls"] == [*warm, *["seconds"] * 3, *warm, *["seconds"] * 2]
