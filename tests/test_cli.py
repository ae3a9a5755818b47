"""The `sparsekit` verbs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import serve
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from typer.testing import CliRunner

from sparsekit import doctor
from sparsekit.cli import app
from sparsekit.environment import PACKAGES

RECIPES = Path(__file__).parents[1] / "conf" / "recipe"


def sparsekit(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weight = np.eye(8, dtype=np.float32)
    save_file({"bert.encoder.layer.0.output.dense.weight": weight}, tmp_path / "model.safetensors")
    return tmp_path


NO_SERVER = "http://127.0.0.1:9"
VOCABULARY = {"[UNK]": 0, "bad": 1, "good": 2}


@pytest.fixture
def run_folder(tmp_path):
    """A run with a model that anybody can check: logits = sum of a row of VOTES per word."""
    votes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    folder = tmp_path / "run" / "deployment"
    folder.mkdir(parents=True)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"])
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["votes", "input_ids"], ["words"]),
            helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["weights", "last"], ["columns"]),
            helper.make_node("Mul", ["words", "columns"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "first"], ["logits"], keepdims=0),
        ],
        "votes",
        [ids, mask],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(votes, "votes"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "first"),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "model.onnx")
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    labels = {"id2label": {"0": "negative", "1": "positive"}, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(labels))
    return tmp_path / "run"


def test_predict(run_folder):
    for folder in (run_folder, run_folder / "deployment"):
        result = sparsekit("predict", folder, "a good film", "bad , bad , bad")
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines() == [
            f"positive\t{1 / (1 + np.exp(-2)):.3f}\ta good film",
            f"negative\t{1 / (1 + np.exp(-3)):.3f}\tbad , bad , bad",
        ]


def test_predict_as_json(run_folder):
    [answer] = json.loads(sparsekit("predict", run_folder, "good good", "--json").stdout)
    assert answer["text"] == "good good"
    assert answer["label"] == "positive"
    assert sum(answer["scores"].values()) == pytest.approx(1.0)


def test_benchmark_times_every_run_and_records_it(run_folder):
    rows = [{"text": "good film", "text_pair": None}, {"text": "a bad one", "text_pair": None}]
    (run_folder / "evaluation").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), run_folder / "evaluation" / "validation.parquet")
    node = {"_target_": "sparsekit.runtime.benchmark.BenchmarkConfig", "requests": 3, "batches": 2}
    (run_folder / "config.yaml").write_text(json.dumps({"runtime": node}))
    before = {"status": "completed", "seed": 7}
    (run_folder / "summary.json").write_text(json.dumps(before))
    result = sparsekit("benchmark", run_folder, run_folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("onnxruntime") == 2
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary.items() >= before.items()
    assert summary["runtime"]["onnxruntime"]["latency_ms_p50"] > 0


def test_predict_needs_no_torch(run_folder):
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from sparsekit.cli import app\n"
        f"result = CliRunner().invoke(app, ['predict', {str(run_folder)!r}, 'good'])\n"
        "sys.exit('torch' in sys.modules or result.exit_code)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_lists_the_verbs_without_torch():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from sparsekit.cli import app\n"
        "print(CliRunner().invoke(app, ['--help']).output)\n"
        "slow = {'torch', 'transformers', 'datasets', 'wandb', 'onnxruntime', 'hydra'}\n"
        "sys.exit(' '.join(slow & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for verb in ("predict", "inspect", "export", "benchmark", "recipe", "doctor"):
        assert verb in result.stdout


def test_inspect(model):
    result = sparsekit("inspect", model)
    assert result.exit_code == 0
    assert "87.50%" in result.stdout
    assert "1:4" in result.stdout


def test_inspect_as_json(model):
    seen = json.loads(sparsekit("inspect", model, "--json").stdout)
    assert seen["sparsity"] == 0.875
    assert seen["layers"]["bert.encoder.layer.0.output.dense"] == {
        "shape": [8, 8],
        "sparsity": 0.875,
        "pattern": "1:4",
        "weights": "float32",
        "activations": None,
        "prunable": True,
    }


def test_a_mistake_is_one_line_on_stderr_and_exit_code_1(tmp_path):
    for arguments in (
        ["inspect", tmp_path / "nowhere"],
        ["export", tmp_path],
        ["benchmark", tmp_path],
        ["predict", tmp_path, "fine"],
        ["recipe", "show", tmp_path / "none.yaml"],
    ):
        result = sparsekit(*arguments)
        assert result.exit_code == 1, arguments
        assert result.stdout == ""
        assert re.fullmatch(r"error: [^\n]+\n", result.stderr), result.stderr
        assert str(arguments[1 if arguments[0] != "recipe" else 2]) in result.stderr


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_show(path):
    result = sparsekit("recipe", "show", path, "--steps-per-epoch", 10)
    assert result.exit_code == 0, result.output
    assert "learning_rate" in result.stdout
    rows = json.loads(sparsekit("recipe", "show", path, "--steps-per-epoch", 10, "--json").stdout)
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert rows[5]["epoch"] == 0.5
    assert rows[0]["lr"] > rows[-1]["lr"] > 0


def test_recipe_show_composes_a_recipe_that_builds_on_another():
    path = RECIPES / "pruned90_quant.yaml"
    rows = json.loads(sparsekit("recipe", "show", path, "--steps-per-epoch", 2, "--json").stdout)
    assert len(rows) == 26
    quantized = [row["epoch"] for row in rows if "quantization" in row["active"]]
    assert quantized[0] == 8.0
    assert rows[0]["lr"] == pytest.approx(1.5e-4)


@pytest.fixture
def hub_address(monkeypatch):
    """Sets the address that the doctor looks at, as if it came from HF_ENDPOINT."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda url: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)


def findings():
    return {row["what"]: row for row in json.loads(sparsekit("doctor", "--json").stdout)}


def test_doctor(monkeypatch, tmp_path, hub_address):
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    hub_address(NO_SERVER)
    found = findings()
    assert found.keys() >= {"python", "cpu", "int8 units", "gpu", "W&B", *PACKAGES}
    assert found["sparsekit cache"]["value"].startswith(str(tmp_path / "cache"))
    assert found["Hub"]["value"].startswith(f"{NO_SERVER}, not reached")
    assert "student.checkpoint=FOLDER" in found["Hub"]["fix"]


def test_doctor_reaches_a_hub(tmp_path, hub_address):
    with serve(tmp_path) as hub:
        hub_address(hub.url)
        assert findings()["Hub"] == {"what": "Hub", "value": f"{hub.url}, reachable", "fix": None}


def test_doctor_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "offline (HF_HUB_OFFLINE)" in findings()["Hub"]["value"]


def test_doctor_names_the_install_command(monkeypatch, hub_address):
    hub_address(NO_SERVER)
    monkeypatch.setattr(doctor, "versions", lambda: {"torch": "2.13.0", "onnxruntime": None})
    result = sparsekit("doctor")
    assert result.exit_code == 1
    assert "pip install onnxruntime" in result.stdout
    assert "missing: onnxruntime" in result.stderr


def test_installed_command():
    command = Path(sys.executable).parent / "sparsekit"
    result = subprocess.run(
        [command, "recipe", "--help"], capture_output=True, text=True, check=False, env=os.environ
    )
    assert "show" in result.stdout
