"""`sparsekit export --layout`: the folders that other servers and clients read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import openvino
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from onnx import TensorProto, helper, save
from onnxruntime import InferenceSession
from project import GOLDEN
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.errors import UserError
from sparsekit.onnx.layouts.source import Tensor, read_source
from sparsekit.onnx.layouts.token_vectors import add_token_vectors
from sparsekit.onnx.layouts.triton import config
from sparsekit.onnx.layouts.write import LAYOUTS, write_layout
from sparsekit.onnx.sums import check_sums, write_sums
from sparsekit.runtime.tasks.token_classification import TokenClassificationAnswers

Field = descriptor_pb2.FieldDescriptorProto
STRING, INT32, INT64, ENUM, MESSAGE = (
    *(Field.TYPE_STRING, Field.TYPE_INT32, Field.TYPE_INT64),
    *(Field.TYPE_ENUM, Field.TYPE_MESSAGE),
)
# Of Triton's model_config.proto, the fields that a config of ours may have: name, number and type.
TRITON: dict[str, dict[str, tuple[int, int, str | None]]] = {
    "ModelInput": {"name": (1, STRING, None), "data_type": (2, ENUM, "DataType")},
    "ModelOutput": {
        "name": (1, STRING, None),
        "data_type": (2, ENUM, "DataType"),
        "label_filename": (4, STRING, None),
    },
    "ModelInstanceGroup": {"count": (2, INT32, None), "kind": (4, ENUM, "Kind")},
    "ModelDynamicBatching": {},
    "ModelConfig": {
        "name": (1, STRING, None),
        "max_batch_size": (4, INT32, None),
        "default_model_filename": (8, STRING, None),
        "dynamic_batching": (11, MESSAGE, "ModelDynamicBatching"),
        "backend": (17, STRING, None),
    },
}
REPEATED = {
    "ModelInput": {"dims": (4, INT64, None)},
    "ModelOutput": {"dims": (3, INT64, None)},
    "ModelConfig": {
        "input": (5, MESSAGE, "ModelInput"),
        "output": (6, MESSAGE, "ModelOutput"),
        "instance_group": (7, MESSAGE, "ModelInstanceGroup"),
    },
}
ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_INT64": 9, "TYPE_FP16": 10, "TYPE_FP32": 11},
    "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
}
NUMPY = {"TYPE_INT64": np.int64, "TYPE_FP32": np.float32}
# Of OpenVINO Model Server, what its documentation allows in config.json.
OVMS = {
    "type": "object",
    "required": ["model_config_list"],
    "additionalProperties": False,
    "properties": {
        "model_config_list": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["config"],
                "additionalProperties": False,
                "properties": {
                    "config": {
                        "type": "object",
                        "required": ["name", "base_path"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "base_path": {"type": "string"},
                            "nireq": {"type": "integer", "minimum": 0},
                            "plugin_config": {"type": "object"},
                            "target_device": {"type": "string"},
                        },
                    }
                },
            },
        }
    },
}


def triton_config_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for key, number in values.items():
            enum.value.add(name=key, number=number)
    for name, fields in TRITON.items():
        message = file.message_type.add(name=name)
        for label, found in (
            (Field.LABEL_OPTIONAL, fields),
            (Field.LABEL_REPEATED, REPEATED.get(name, {})),
        ):
            for key, (number, kind, of) in found.items():
                message.field.add(
                    name=key, number=number, type=kind, label=label, type_name=of and f".{of}"
                )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ModelConfig"))


def parsed(file: Path) -> Any:
    return text_format.Parse(file.read_text(encoding="utf-8"), triton_config_class()())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "old_run", tmp_path / "reviews")
    return tmp_path / "reviews"


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def feed(rows: int, length: int) -> dict[str, np.ndarray]:
    ids = np.arange(rows * length).reshape(rows, length) % 30 + 5
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


@pytest.mark.parametrize(("layout", "batch"), [("triton", 32), ("triton-openvino", 0)])
def test_a_triton_repository(run: Path, layout: str, batch: int) -> None:
    """Every field is one of Triton's, and names, types and sizes are those of the graph."""
    done = invoke(run, "--layout", layout)
    assert done.exit_code == 0, done.stderr
    model = run / "repository" / "reviews"
    assert done.stdout == f"{layout}: {model / '1'}\n"
    found = parsed(model / "config.pbtxt")
    assert found.name == model.name
    assert found.backend == {"triton": "onnxruntime", "triton-openvino": "openvino"}[layout]
    assert found.max_batch_size == batch
    assert found.HasField("dynamic_batching") == (batch > 0)
    graph = model / "1" / found.default_model_filename
    assert graph.read_bytes() == (run / "deployment" / "model.onnx").read_bytes()
    session = InferenceSession(str(graph))
    enum = found.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    inputs = {tensor.name: tensor for tensor in found.input}
    assert inputs.keys() == {value.name for value in session.get_inputs()}
    fed = feed(3, 7)
    free = [-1] if batch else [-1, -1]
    for name, tensor in inputs.items():
        assert list(tensor.dims) == free
        assert NUMPY[enum[tensor.data_type].name] == fed[name].dtype
    outputs = session.run(None, fed)
    for value, output, tensor in zip(session.get_outputs(), outputs, found.output, strict=True):
        assert value.name == tensor.name
        assert NUMPY[enum[tensor.data_type].name] == output.dtype
        assert list(tensor.dims) == [2] if batch else [-1, 2]
    if batch:
        [labels] = [tensor.label_filename for tensor in found.output]
        names = json.loads((model / "config.json").read_text())["id2label"]
        assert (model / labels).read_text().splitlines() == list(names.values())
    else:
        assert not (model / "labels.txt").exists()
    assert (model / "tokenizer.json").is_file()


def test_the_schema_of_triton_refuses_other_fields() -> None:
    """So that the test above can fail."""
    for wrong in ("inputs { }", 'max_batch_size: "8"', 'input { data_type: "TYPE_FLOAT" }'):
        with pytest.raises(text_format.ParseError):
            text_format.Parse(wrong, triton_config_class()())


def test_outputs_of_tokens_have_no_labels_file(run: Path) -> None:
    source = read_source(run)
    assert "label_filename" in config(source, "onnxruntime", 8)
    words = type(source)(**{**vars(source), "task": TokenClassificationAnswers()})
    assert "label_filename" not in config(words, "onnxruntime", 8)
    fixed = Tensor(name="input_ids", kind="INT64", dims=(1, -1))
    with pytest.raises(UserError, match=r"input_ids .* has the sizes \[1, -1\]: the first must be"):
        config(type(source)(**{**vars(source), "inputs": (fixed,)}), "onnxruntime", 8)


def test_a_repository_of_openvino_model_server(run: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    write_layout(run, "ovms", repository)
    file = repository / "config.json"
    listed = json.loads(file.read_text())
    jsonschema.validate(listed, OVMS)
    [node] = listed["model_config_list"]
    # A relative path is one from config.json.
    graph = repository / node["config"]["base_path"] / "1" / "model.onnx"
    # A CPU with AMX computes in bf16 unless asked not to.
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(graph, "CPU", precise)
    fed = feed(2, 5)
    theirs = model({value.any_name: fed[value.any_name] for value in model.inputs})[0]
    ours = InferenceSession(str(run / "deployment" / "model.onnx")).run(None, fed)[0]
    np.testing.assert_allclose(theirs, ours, atol=1e-3)
    # What the user sets for a model stays, and another model is added.
    node["config"]["nireq"] = 2
    file.write_text(json.dumps(listed))
    assert write_layout(run, "ovms", repository) == repository / "reviews" / "2"
    write_layout(run, "ovms", repository, name="others")
    listed = json.loads(file.read_text())
    jsonschema.validate(listed, OVMS)
    assert listed["model_config_list"] == [
        node,
        {"config": {"name": "others", "base_path": "others"}},
    ]
    for text in ("[]", "{", '{"model_config_list": [1]}', '{"model_config_list": 1}'):
        file.write_text(text)
        with pytest.raises(UserError, match="is not a config of OpenVINO Model Server"):
            write_layout(run, "ovms", repository)
        assert file.read_text() == text


def test_the_next_export_is_the_next_version(run: Path) -> None:
    for version in ("1", "2"):
        assert write_layout(run, "triton").name == version
    repository = run / "repository"
    assert sorted(entry.name for entry in repository.iterdir()) == ["reviews"]
    (repository / "reviews" / "10").mkdir()
    (repository / "reviews" / "labels.txt").unlink()
    assert write_layout(run, "triton").name == "11"
    assert (repository / "reviews" / "labels.txt").is_file()


def test_a_folder_for_transformers_js(run: Path, tmp_path: Path) -> None:
    folder = write_layout(run / "deployment", "transformers.js", tmp_path / "models")
    assert folder == tmp_path / "models" / "reviews"
    names = {file.name for file in (run / "deployment").iterdir()}
    assert {file.name for file in folder.iterdir()} == names - {"model.onnx"} | {"onnx"}
    graph = folder / "onnx" / "model.onnx"
    assert graph.read_bytes() == (run / "deployment" / "model.onnx").read_bytes()
    settings = json.loads((folder / "config.json").read_text())
    # Otherwise browsers would look for onnx/model_quantized.onnx.
    assert settings.pop("transformers.js_config") == {"dtype": "fp32"}
    assert settings == json.loads((run / "deployment" / "config.json").read_text())
    assert check_sums(folder) == len(names) - 1
    with pytest.raises(UserError, match="exists; remove it, or choose another name: --name"):
        write_layout(run, "transformers.js", tmp_path / "models")


def test_a_graph_of_first_tokens_has_no_vectors_of_the_others(tmp_path: Path) -> None:
    """Its output is the first token of a row, divided by its length."""
    size = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["hidden", "first"], ["row"], axis=1),
            helper.make_node("ReduceL2", ["row", "last"], ["length"]),
            helper.make_node("Div", ["row", "length"], ["sentence_embedding"]),
        ],
        "first",
        [size("hidden", TensorProto.FLOAT, ["batch", "sequence", 4])],
        [size("sentence_embedding", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor("first", TensorProto.INT64, [], [0]),
            helper.make_tensor("last", TensorProto.INT64, [1], [-1]),
        ],
    )
    save(helper.make_model(graph), tmp_path / "model.onnx")
    before = (tmp_path / "model.onnx").read_bytes()
    assert not add_token_vectors(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == before


def test_a_task_that_transformers_js_has_no_class_for(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsekit.onnx.layouts.transformers_js.TASKS", ("token-classification",))
    done = invoke(run, "--layout", "transformers.js")
    assert done.exit_code == 1
    assert "has no class for the task 'text-classification'" in done.stderr
    assert not (run / "repository").exists()


@pytest.mark.parametrize(("first", "second"), [("triton", "ovms"), ("ovms", "triton-openvino")])
def test_a_repository_of_another_server(run: Path, tmp_path: Path, first: str, second: str) -> None:
    assert invoke(run, "--layout", first, "--output", tmp_path, "--name", "m").exit_code == 0
    before = sorted(tmp_path.rglob("*"))
    done = invoke(run, "--layout", second, "--output", tmp_path, "--name", "m")
    assert done.exit_code == 1 and "a model of Triton" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert invoke(run, "--layout", second, "--output", tmp_path, "--name", "n").exit_code == 0


def test_bad_input(run: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = invoke(*arguments)
        assert done.exit_code == 1, done.stdout
        assert "Traceback" not in done.stderr
        return str(done.stderr)

    assert "no layout 'tritn'; did you mean triton?" in refused(run, "--layout", "tritn")
    known = refused(run, "--layout", "nothing-like-it")
    assert all(layout in known for layout in LAYOUTS)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        assert "has no deployment: there is no" in refused(folder, "--layout", "ovms")
    assert "belong to --layout" in refused(run, "--output", tmp_path / "out")
    for name in ("a/b", "..", ".hidden", "", "é"):
        message = refused(run, "--layout", "triton", "--name", name)
        assert "cannot be the name of a model" in message
    assert "is a deployment; choose another folder" in refused(
        run, "--layout", "triton", "--output", run / "deployment"
    )
    (tmp_path / "file").write_text("")
    assert "is a file; choose another" in refused(
        run, "--layout", "triton", "--output", tmp_path / "file"
    )
    with (run / "deployment" / "config.json").open("a") as file:
        file.write(" ")
    assert "config.json (" in refused(run, "--layout", "triton")
    graph = run / "deployment" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    write_sums(run / "deployment", [graph])
    assert "is not a valid ONNX file" in refused(run, "--layout", "triton")
    assert not (run / "repository").exists()
