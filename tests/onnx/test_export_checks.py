"""Each check of the export fails where it should, and then leaves no deployment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import helper, numpy_helper
from run_folder import quantization, write_run
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsekit.errors import UserError
from sparsekit.models.quantizers import saved_state, separate_quantizers
from sparsekit.onnx.check import check_structure, int8_operands
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.onnx.forms import FORMS
from sparsekit.onnx.layers import Layers, other_bytes, read_layers
from sparsekit.onnx.parity import EFFECT_ROWS, Rows, check_metrics, check_trace, read_rows
from sparsekit.onnx.trace import load_model
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.sparsity.prunable import prunable
from sparsekit.tasks.regression import Regression
from sparsekit.tasks.text_classification import TextClassification

QUERY = "bert.encoder.layer.0.attention.self.query"
LOOSE = ExportConfig(max_metric_drop=0.1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), student_folder, quantization())
    export(run, LOOSE)
    return run


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "run"))


def structure(run: Path) -> None:
    model, state = load_model(run / "model", TextClassification())
    layers = read_layers(model, state)
    file = run / "deployment" / "model.onnx"
    check_structure(file, layers, other_bytes(state, layers), prunable(model))


def tamper(run: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    file = run / "deployment" / "model.onnx"
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(value for value in model.graph.initializer if value.name == name)


def set_weight(index: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.ModelProto], None]:
    """Changes the first int8 weight of the query at `index`."""

    def change(model: onnx.ModelProto) -> None:
        value = constant(model, f"{QUERY}.weight_quantized")
        array = numpy_helper.to_array(value).copy()
        place = tuple(np.argwhere(index(array))[0])
        array[place] += 1
        value.CopyFrom(numpy_helper.from_array(array, value.name))

    return change


def test_untouched_passes(run: Path) -> None:
    structure(run)


def test_a_lost_zero(run: Path) -> None:
    weight = load_file(run / "model" / "model.safetensors")[f"{QUERY}.weight"].numpy().T
    tamper(run, set_weight(lambda _: weight == 0))
    with pytest.raises(UserError, match=rf"check 'zeros' failed: 1 of the \d+ zeros of {QUERY}"):
        structure(run)


def test_a_changed_weight(run: Path) -> None:
    tamper(run, set_weight(lambda array: array > 5))
    with pytest.raises(UserError, match=rf"check 'weights' failed: {QUERY}.weight_quantized"):
        structure(run)


def test_a_missing_weight(run: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        constant(model, f"{QUERY}.weight_quantized").name = "else"
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                if name == f"{QUERY}.weight_quantized":
                    node.input[i] = "else"

    tamper(run, rename)
    with pytest.raises(UserError, match=rf"check 'weights' failed: the file has no {QUERY}"):
        structure(run)


def test_a_matmul_in_float32(run: Path) -> None:
    """Without the pair at its input the matmul runs in float32."""

    def unquantize(model: onnx.ModelProto) -> None:
        name = "classifier.input"
        source = next(n.input[0] for n in model.graph.node if n.output[0] == f"{name}_quantized")
        for node in model.graph.node:
            if node.input[0] == f"{name}_dequantized":
                node.input[0] = source

    tamper(run, unquantize)
    assert "classifier.weight_quantized" not in int8_operands(run / "deployment" / "model.onnx")
    with pytest.raises(UserError, match=r"check 'int8' failed: .*13 of 14.*classifier"):
        structure(run)


def test_a_weight_stored_twice(run: Path) -> None:
    def double(model: onnx.ModelProto) -> None:
        extra = np.zeros(600_000, dtype=np.int8)
        model.graph.initializer.append(numpy_helper.from_array(extra, "copy"))
        model.graph.node.append(helper.make_node("Identity", ["copy"], ["unused"]))

    tamper(run, double)
    with pytest.raises(UserError, match=r"check 'size' failed: model.onnx has \d+ bytes"):
        structure(run)


def test_another_opset(run: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 22

    tamper(run, change)
    with pytest.raises(UserError, match=r"check 'form' failed: .*22.*must be plain ONNX 20"):
        structure(run)


def test_a_broken_graph(run: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[-1].op_type = "NoSuchOperator"

    tamper(run, change)
    with pytest.raises(UserError, match=r"check 'form' failed: model.onnx is not valid ONNX"):
        structure(run)


def test_a_trace_that_differs(run: Path) -> None:
    """The int8 graph replaces the trace, so that it differs from torch."""
    model, _ = load_model(run / "model", TextClassification())
    encoder = TextEncoder(run / "deployment")
    encodings = encoder.encode(["the plot is dull .", "the cast is warm"])
    other = OnnxRuntime(run / "deployment" / "model.onnx", threads=1)
    with pytest.raises(UserError, match=r"check 'trace' failed: .*differ from torch's by"):
        check_trace(model, TextClassification(), other, encoder, encodings)


def test_a_metric_that_drops(run: Path) -> None:
    encoder = TextEncoder(run / "deployment")
    task = TextClassification()
    rows = read_rows(run / "evaluation" / "validation.parquet", task, encoder)
    exported = np.array(rows.outputs["logits"])
    exported[1:5] = exported[1:5, ::-1]
    with pytest.raises(UserError, match=r"'metrics' failed: .*accuracy is 0\.8125 .* 0\.8750"):
        check_metrics(task, {"logits": exported}, rows, 0.005)


@pytest.mark.parametrize(
    ("rows", "changed", "passes"),
    [(50, 2, True), (50, 3, False), (1000, 5, True), (1000, 6, False)],
)
def test_rounding_may_change_two_answers_of_a_small_split(
    rows: int, changed: int, passes: bool
) -> None:
    outputs = np.eye(2)[np.arange(rows) % 2]
    recorded = Rows([], [row % 2 for row in range(rows)], ["no", "yes"], {"logits": outputs})
    exported = outputs.copy()
    exported[:changed] = exported[:changed, ::-1]
    if passes:
        found = check_metrics(TextClassification(), {"logits": exported}, recorded, 0.005)
        assert found["accuracy"] == 1 - changed / rows
    else:
        limit = max(0.005, 2 / rows)
        with pytest.raises(UserError, match=f"worse by {limit:g} at most"):
            check_metrics(TextClassification(), {"logits": exported}, recorded, 0.005)


@pytest.mark.parametrize("task", [TextClassification(), TextClassification(metrics=["log_loss"])])
def test_rounding_may_improve_more_answers(task: TextClassification) -> None:
    outputs = np.eye(2)[np.arange(50) % 2]
    labels = [row % 2 for row in range(50)]
    labels[:4] = [1 - label for label in labels[:4]]
    exported = outputs.copy()
    exported[:4] = exported[:4, ::-1]
    [[metric, value]] = check_metrics(
        task, {"logits": exported}, Rows([], labels, ["no", "yes"], {"logits": outputs}), 0.005
    ).items()
    assert value == pytest.approx(1.0 if metric == "accuracy" else np.log1p(np.exp(-1.0)))
    rows = Rows([], labels, ["no", "yes"], {"logits": exported})
    with pytest.raises(UserError, match=f"'metrics' failed: validation {metric} is .* worse by"):
        check_metrics(task, {"logits": outputs}, rows, 0.005)


@pytest.mark.parametrize(("error", "passes"), [(0.02, True), (0.5, False)])
def test_the_limit_of_a_metric_without_bounds_is_relative(error: float, passes: bool) -> None:
    """Scores of 0 to 100 have a mean squared error of hundreds."""
    labels = [float(score) for score in range(101)]
    outputs = np.array(labels) + 20.0
    rows = Rows([], labels, [], {"logits": outputs})
    exported = {"logits": outputs + error}
    if passes:
        assert check_metrics(Regression(), exported, rows, 0.005)["mse"] > 400.5
    else:
        with pytest.raises(UserError, match=r"mse is 420\.2500 .* 400\.0000 .* worse by 2 at most"):
            check_metrics(Regression(), exported, rows, 0.005)


def test_rows_beyond_the_limits_are_checked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows in batches, `check_rows` of them alone, and EFFECT_ROWS without quantization."""
    file = run / "evaluation" / "validation.parquet"
    table = pq.read_table(file)
    pq.write_table(pa.concat_tables([table, table.slice(0, 6)]), file)
    sizes: dict[str, list[int]] = {"model": [], "float32": []}
    outputs = OnnxRuntime.outputs

    def counted(self: OnnxRuntime, inputs: Any) -> Any:
        sizes[self._model.stem].append(len(inputs["input_ids"]))
        return outputs(self, inputs)

    monkeypatch.setattr(OnnxRuntime, "outputs", counted)
    monkeypatch.setattr("sparsekit.onnx.export.check_trace", lambda *_: None)
    assert export(run, replace(LOOSE, check_rows=3))["verified"]
    assert sizes == {"model": [32, 32, 6, 1, 1, 1], "float32": [32, 32]}
    # The last rows count too.
    columns = pq.read_table(file).to_pydict()
    columns["logits"][EFFECT_ROWS:] = [
        [value + 9 for value in row] for row in table["logits"][:6].to_pylist()
    ]
    pq.write_table(pa.table(columns), file)
    with pytest.raises(UserError, match=r"check 'logits' failed: in padded batches .* 70 rows"):
        export(run, replace(LOOSE, check_rows=3))


def test_the_limit_of_the_logits_is_the_configs(run: Path) -> None:
    file = run / "evaluation" / "validation.parquet"
    columns = pq.read_table(file).to_pydict()
    columns["logits"] = (np.array(columns["logits"], np.float32) + np.float32(1e-6)).tolist()
    pq.write_table(pa.table(columns), file)
    with pytest.raises(UserError, match=r"check 'logits' failed: .* limit is \d\S*e-\d+"):
        export(run, replace(LOOSE, max_logit_diff=1e-9))


def test_an_export_compares_the_traced_graph(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise UserError("check 'trace' failed")

    monkeypatch.setattr("sparsekit.onnx.export.check_trace", fails)
    with pytest.raises(UserError, match="check 'trace' failed"):
        export(run, LOOSE)
    assert not (run / "deployment").exists()


def test_logits_of_another_model_leave_no_deployment(run: Path) -> None:
    file = run / "evaluation" / "validation.parquet"
    columns = pq.read_table(file).to_pydict()
    columns["logits"] = columns["logits"][::-1]
    pq.write_table(pa.table(columns), file)
    assert (run / "deployment").is_dir()
    with pytest.raises(UserError, match=r"check 'logits' failed: row by row .*64 rows"):
        export(run, LOOSE)
    names = ["SHA256SUMS", "config.yaml", "evaluation", "model"]
    assert sorted(path.name for path in run.iterdir()) == names


def test_of_a_linked_deployment_the_link_alone_is_removed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "deployment").rename(tmp_path / "elsewhere")
    (run / "deployment").symlink_to(tmp_path / "elsewhere")

    def fails(*_: object) -> None:
        raise UserError("far enough")

    monkeypatch.setattr("sparsekit.onnx.export.load_model", fails)
    with pytest.raises(UserError, match="far enough"):
        export(run, LOOSE)
    assert not (run / "deployment").is_symlink()
    assert (tmp_path / "elsewhere" / "model.onnx").is_file()


@pytest.mark.slow
def test_a_graph_with_another_scale_fails(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong scale is distinguished from differences by rounding."""

    def double_scales(model: object, layers: Layers) -> int:
        for layer in layers.values():
            if layer.inputs is not None:
                layer.inputs.scale[...] *= 4
        return 0

    monkeypatch.setitem(FORMS, "qdq", (double_scales, *FORMS["qdq"]))
    with pytest.raises(UserError, match="check 'logits' failed"):
        export(run, LOOSE)
    assert not (run / "deployment").exists()


def change_state(run: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    state = saved_state(run / "model")
    change(state)
    save_file(state, run / "model" / "model.safetensors", metadata={"format": "pt"})
    separate_quantizers(run / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[f"{QUERY}.input_quantizer.scale"].fill_(0.0), "scale holds 0.0"),
        (lambda s: s[f"{QUERY}.weight_quantizer.scale"].fill_(float("nan")), "scale holds nan"),
        (lambda s: s[f"{QUERY}.input_quantizer.zero_point"].fill_(300), "zero_point holds 300"),
        (lambda s: s.pop(f"{QUERY}.bias"), f"missing .*{QUERY}.bias"),
        (
            lambda s: s.update({"other.weight": s[f"{QUERY}.bias"].clone()}),
            "unknown .*other.weight",
        ),
    ],
)
def test_quantizers_that_int8_cannot_represent(
    run: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    change_state(run, change)
    with pytest.raises(UserError, match=message):
        export(run, LOOSE)
    assert not (run / "deployment").exists()


def test_truncated_weights(run: Path) -> None:
    file = run / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cannot read .*model.safetensors"):
        export(run, LOOSE)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("evaluation", r"there is no .*evaluation.*validation split \(eval_dataset"),
        ("model", r"there is no .*model\.safetensors; .*save_model\(\)"),
        ("config.yaml", r"is not a run folder: it has no config\.yaml"),
    ],
)
def test_a_folder_that_is_not_a_run(run: Path, missing: str, message: str) -> None:
    path = run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=message):
        export(run, LOOSE)
