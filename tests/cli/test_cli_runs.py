"""The verbs that work on a run folder: predict, export."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner
from votes import write_votes

from sparsekit.cli.app import app
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.openvino import OpenVinoRuntime


def sparsekit(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def run_folder(tmp_path):
    write_votes(tmp_path / "run" / "deployment")
    return tmp_path / "run"


def test_predict(run_folder):
    for folder in (run_folder, run_folder / "deployment"):
        result = sparsekit("predict", folder, "a good film", "bad , bad , bad")
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines() == [
            f"positive\t{1 / (1 + np.exp(-2)):.3f}\ta good film",
            f"negative\t{1 / (1 + np.exp(-3)):.3f}\tbad , bad , bad",
        ]


def test_predict_prints_a_line_for_each_text(run_folder):
    """Tabs and line breaks of a text would look like columns and texts of their own."""
    texts = ["good\tbad\r\nbad", "bad\u2028bad\x85", r"good \n good"]
    result = sparsekit("predict", run_folder, *texts)
    assert result.exit_code == 0, result.output
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[2:] for row in rows] == [
        [r"good\tbad\r\nbad"],
        [r"bad\u2028bad\x85"],
        [r"good \\n good"],
    ]
    assert [row[2].encode().decode("unicode_escape") for row in rows] == texts
    answers = json.loads(sparsekit("predict", run_folder, "--json", *texts).stdout)
    assert [answer["text"] for answer in answers] == texts


def test_predict_on_another_runtime(run_folder, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    asked, outputs = [], OpenVinoRuntime.outputs

    def recorded(self, inputs):
        asked.append(len(inputs["input_ids"]))
        return outputs(self, inputs)

    monkeypatch.setattr(OpenVinoRuntime, "outputs", recorded)
    (tmp_path / "rows.csv").write_text("text\na good film\nbad bad\n")
    for texts in (["a good film", "bad , bad , bad"], [tmp_path / "rows.csv"]):
        usual = sparsekit("predict", run_folder, *texts)
        assert not asked
        other = sparsekit("predict", run_folder, *texts, "--runtime=openvino")
        assert other.exit_code == 0, other.output
        assert other.stdout == usual.stdout
        # A table answers an example first.
        assert asked.pop() == 2
        asked.clear()
    refused = sparsekit("predict", run_folder, "good", "--runtime=tensorrt")
    assert refused.exit_code == 1
    assert "choose one of onnxruntime, openvino, deepsparse, sparse" in refused.stderr


def test_predict_on_a_runtime_that_is_not_installed(run_folder, monkeypatch):
    monkeypatch.setattr(OpenVinoRuntime, "missing", staticmethod(lambda: "pip install openvino"))
    refused = sparsekit("predict", run_folder, "good", "--runtime=openvino")
    assert refused.exit_code == 1
    assert "runtime openvino is not installed: pip install openvino" in refused.stderr


def test_predict_reads_lines(run_folder):
    def lines(data):
        return CliRunner().invoke(app, ["predict", str(run_folder), "-"], input=data)

    answered = lines(b"a good film\nbad , bad , bad\n")
    assert (
        answered.stdout == sparsekit("predict", run_folder, "a good film", "bad , bad , bad").stdout
    )
    # As Windows writes them, with a byte order mark; a carriage return in a line is not its end.
    assert lines(b"\xef\xbb\xbfa good film\r\nbad , bad , bad\r\n").stdout == answered.stdout
    # Lines without text are left out, and other line ends are part of a text, as in a file.
    assert lines(b"\na good film\n \nbad , bad , bad\n\n").stdout == answered.stdout
    within = lines(b"good\rfilm\nbad\n").stdout.splitlines()
    assert [line.split("\t")[2] for line in within] == [r"good\rfilm", "bad"]
    for data, problem in (
        (b"", "there are no texts"),
        (b"good\n\xff\xfe\n", r"text 2 of 2 is not UTF-8"),
    ):
        refused = lines(data)
        assert refused.exit_code == 1
        assert problem in refused.stderr


def test_predict_reads_a_text_file_by_lines(run_folder, tmp_path):
    file = tmp_path / "texts.txt"
    content = b"\xef\xbb\xbfa good film\r\n\nbad ,\xe2\x80\xa8bad\x0b\n"
    file.write_bytes(content)
    answered = sparsekit("predict", run_folder, file)
    expected = sparsekit("predict", run_folder, "a good film", "bad ,\u2028bad\x0b")
    assert answered.exit_code == 0 and answered.stdout == expected.stdout
    stdin = CliRunner().invoke(app, ["predict", str(run_folder), "-"], input=content)
    assert stdin.stdout == expected.stdout
    spaced = file.rename(tmp_path / "my texts.txt")
    assert sparsekit("predict", run_folder, spaced).stdout == expected.stdout
    several = sparsekit("predict", run_folder, spaced, spaced)
    assert several.exit_code == 1 and "my texts.txt is a file: give it alone" in several.stderr
    missing = sparsekit("predict", run_folder, "missing.txt")
    assert missing.exit_code == 1 and "there is no file missing.txt" in missing.stderr
    assert sparsekit("predict", run_folder, "see missing.txt").exit_code == 0
    other = tmp_path / "texts.xlsx"
    other.write_bytes(b"PK")
    refused = sparsekit("predict", run_folder, other)
    assert refused.exit_code == 1
    assert (
        "texts.xlsx is a file of another kind; give one csv, tsv, jsonl or parquet"
        in refused.stderr
    )
    # Longer than the name of a file may be, with and without a suffix.
    for text in ("good " * 100, "good " * 100 + ".csv", "good " * 2000 + ".txt"):
        assert sparsekit("predict", run_folder, text, "bad").exit_code == 0
        assert sparsekit("predict", run_folder, text).exit_code == 0
    # A word is a text, although a folder has its name.
    (tmp_path / "good").mkdir()
    assert sparsekit("predict", run_folder, "good").exit_code == 0


def test_stdin_and_texts_exclude_one_another(run_folder):
    refused = sparsekit("predict", run_folder, "-", "good")
    assert refused.exit_code == 1
    assert "give either - or texts" in refused.stderr


def test_predict_of_a_file(run_folder):
    refused = sparsekit("predict", run_folder / "deployment" / "model.onnx", "good")
    assert refused.exit_code == 1
    assert "not a deployment folder" in refused.stderr


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.json", b"[]", "config.json is not JSON (it is not a mapping)"),
        ("config.json", b"\xff\xfe", "config.json is not JSON"),
        ("config.json", b'{"id2label": ["a", "b"]}', "cannot read the tokenizer and the labels"),
        (
            "config.json",
            b'{"id2label": {"0": "a", "1": "b", "2": "c"}}',
            "the graph has 2 labels, its config.json names 3",
        ),
        ("tokenizer_config.json", b"{}", "KeyError: 'model_max_length'"),
        ("tokenizer_config.json", b'{"model_max_length": -5}', "OverflowError"),
        ("tokenizer.json", b"{", "cannot read the tokenizer and the labels"),
        ("model.onnx", b"", "model.onnx is not a valid ONNX file: it holds 0 graphs"),
    ],
)
def test_broken_files_of_a_deployment_are_named(run_folder, name, content, problem):
    (run_folder / "deployment" / name).write_bytes(content)
    refused = sparsekit("predict", run_folder, "good")
    assert refused.exit_code == 1
    assert problem in refused.stderr and "export the run again" in refused.stderr


def test_predict_takes_pairs(run_folder):
    settings = {"dataset": {"text_columns": ["premise", "hypothesis"]}}
    (run_folder / "config.yaml").write_text(json.dumps(settings))
    for folder in (run_folder, run_folder / "deployment"):
        result = sparsekit("predict", folder, "--pairs", "a film", "good", "bad", "bad, bad")
        assert result.stdout.splitlines() == [
            f"positive\t{1 / (1 + np.exp(-2)):.3f}\ta film\tgood",
            f"negative\t{1 / (1 + np.exp(-3)):.3f}\tbad\tbad, bad",
        ]
    lines = CliRunner().invoke(
        app, ["predict", str(run_folder), "-", "--pairs"], input="a film\tgood\nbad\tbad, bad\n"
    )
    assert lines.stdout == result.stdout
    [answer] = json.loads(sparsekit("predict", run_folder, "--pairs", "a", "b", "--json").stdout)
    assert (answer["text"], answer["text_pair"]) == ("a", "b")
    assert sparsekit("predict", run_folder, "--pairs", "a", "").exit_code == 0
    for words, problem in (
        (["good", "bad"], "was trained on pairs of premise and hypothesis: add --pairs"),
        (["--pairs", "a", "b", "c"], "two texts a row; there are 3"),
        (["--pairs", " ", "a"], "text 1 of 1 is empty"),
    ):
        assert problem in sparsekit("predict", run_folder, *words).stderr
    settings["dataset"]["text_columns"] = ["text"]
    (run_folder / "config.yaml").write_text(json.dumps(settings))
    assert "leave out --pairs" in sparsekit("predict", run_folder, "--pairs", "a", "b").stderr


def test_predict_as_json(run_folder):
    [answer] = json.loads(sparsekit("predict", run_folder, "good good", "--json").stdout)
    assert answer["text"] == "good good"
    assert answer["label"] == "positive"
    assert sum(answer["scores"].values()) == pytest.approx(1.0)


def test_export_makes_a_deployment_that_predicts(tmp_path, teacher_folder):
    run = tmp_path / "run"
    texts = ["the plot is witty .", "the cast is dull ."] * 4
    labels = {0: "negative", 1: "positive"}
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder, id2label=labels)
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    tokenizer.model_max_length = 32
    model.save_pretrained(run / "model")
    tokenizer.save_pretrained(run / "model")
    with torch.inference_mode():
        logits = model.eval()(**tokenizer(texts, return_tensors="pt")).logits.tolist()
    rows = [
        {"text": text, "text_pair": None, "label": int(np.argmax(row)), "logits": row}
        for text, row in zip(texts, logits, strict=True)
    ]
    (run / "evaluation").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), run / "evaluation" / "validation.parquet")
    node = {"_target_": "sparsekit.onnx.export.ExportConfig", "check_rows": 8}
    config = {"dataset": {"metrics": ["accuracy"], "max_length": 32}, "export": node}
    (run / "config.yaml").write_text(json.dumps(config))
    (run / "summary.json").write_text('{"status": "completed", "seed": 7}')

    result = sparsekit("export", run)
    assert result.exit_code == 0, result.output
    assert "exported accuracy, validation" in result.stdout
    summary = json.loads((run / "summary.json").read_text())
    assert summary["seed"] == 7
    assert summary["export"]["metrics"]["accuracy"] == 1.0
    answers = json.loads(sparsekit("predict", run, *texts[:2], "--json").stdout)
    assert [answer["label"] for answer in answers] == [labels[row["label"]] for row in rows[:2]]


def test_predict_needs_no_torch(run_folder):
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from sparsekit.cli.app import app\n"
        f"result = CliRunner().invoke(app, ['predict', {str(run_folder)!r}, 'good'])\n"
        "sys.exit('torch' in sys.modules or result.exit_code)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_export_of_what_is_no_run_removes_nothing(tmp_path):
    """`deployment/` beside a `config.yaml` is common: that of another tool is left alone."""
    kept = tmp_path / "deployment" / "service.yaml"
    kept.parent.mkdir()
    kept.write_text("replicas: 3")
    (tmp_path / "config.yaml").write_text("replicas: 3")
    refused = sparsekit("export", tmp_path)
    assert refused.exit_code == 1
    assert "is not a run folder: it has no summary.json" in refused.stderr
    (tmp_path / "summary.json").write_text('{"status": "completed"}')
    refused = sparsekit("export", tmp_path)
    assert "config.yaml is not the config of a run: 'dataset'" in refused.stderr
    (tmp_path / "config.yaml").write_text('{"dataset": {"metrics": ["accuracy"]}}')
    refused = sparsekit("export", tmp_path)
    assert "there is no" in refused.stderr and "model.safetensors" in refused.stderr
    assert kept.is_file()


@pytest.mark.parametrize("text", ["{", "[]", "dataset: 3"])
def test_export_with_a_broken_config(tmp_path, text):
    (tmp_path / "summary.json").write_text('{"status": "completed"}')
    (tmp_path / "config.yaml").write_text(text)
    refused = sparsekit("export", tmp_path)
    assert refused.exit_code == 1
    assert "config.yaml" in refused.stderr and "restore it" in refused.stderr


@pytest.mark.parametrize("text", [b"[]", b"{", b"\xff"])
def test_a_broken_summary_is_named(tmp_path, text):
    (tmp_path / "summary.json").write_bytes(text)
    refused = sparsekit("verify", tmp_path)
    assert refused.exit_code == 1
    assert "cannot read" in refused.stderr and "summary.json" in refused.stderr


@pytest.mark.parametrize("change", ["removed", "hidden_size"])
def test_export_of_a_model_without_its_config(tmp_path, teacher_folder, change):
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    model.save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    if change == "removed":
        config.unlink()
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | {change: ""}))
    (tmp_path / "summary.json").write_text('{"status": "completed"}')
    (tmp_path / "config.yaml").write_text('{"dataset": {"metrics": ["accuracy"]}}')
    refused = sparsekit("export", tmp_path)
    assert refused.exit_code == 1
    assert "cannot load the model in" in refused.stderr and "config.json" in refused.stderr


def test_export_waits_for_no_other_process(tmp_path):
    (tmp_path / "summary.json").write_text('{"status": "completed"}')
    (tmp_path / "config.yaml").write_text("{}")
    with RunFolder(tmp_path).lock():
        assert "another process is running in" in sparsekit("export", tmp_path).stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_without_rights_is_named(run_folder, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "model.onnx")

    monkeypatch.setattr("sparsekit.runtime.answers.predict", refuse)
    refused = sparsekit("predict", run_folder, "good")
    assert refused.exit_code == 1
    assert f"{os.strerror(number)}: 'model.onnx'; give yourself the right" in refused.stderr


@pytest.mark.parametrize("command", ["inspect", "prune", "shrink"])
def test_an_unknown_model_is_no_matter_of_a_config(command, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    words = {"prune": ["--sparsity", "0.5"], "shrink": ["--neurons", "0.5"]}.get(command, [])
    refused = sparsekit(command, "nosuch", *words)
    assert refused.exit_code == 1
    assert "there is no folder 'nosuch'" in refused.stderr
    assert refused.stderr.strip().endswith("give a local folder with its files instead")
