"""runtime=sparse answers a damaged graph as onnxruntime does, or refuses it with a message.

The C kernels check nothing, so what does not fit must be refused before they are called.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import sparse_mutants
from compiler import needs_compiler
from onnx import TensorProto, helper, numpy_helper
from project import GOLDEN
from sparse_graphs import texts, write_graph
from sparse_mutants import answers, mutants, requests, write_mutant

from sparsekit.errors import UserError
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.sparse import runtime as runtime_module
from sparsekit.runtime.sparse.runtime import SparseRuntime

INT8 = GOLDEN / "old_run" / "deployment" / "model.onnx"
MUTANTS = 300

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(tmp_path_factory.mktemp("float32"), "bert_relu", quantized=False)


@pytest.fixture(scope="module")
def eurobert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rotated queries and keys, shared keys, norms by the root mean square, gates."""
    return write_graph(tmp_path_factory.mktemp("eurobert"), "eurobert", quantized=False)


@pytest.mark.parametrize(
    "form", ["int8", "float32", pytest.param("eurobert", marks=pytest.mark.slow)]
)
def test_mutants_are_answered_as_by_onnxruntime_or_refused(
    form: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    graph = INT8 if form == "int8" else request.getfixturevalue(form)
    target = tmp_path / "model.onnx"
    refused = 0
    for name, change, array in random.Random(0).sample(mutants(graph), MUTANTS):
        write_mutant(graph, name, array, target)
        expected = answers(OnnxRuntime, target, requests(100))
        actual = answers(SparseRuntime, target, requests(100))
        if isinstance(actual, UserError):
            refused += 1
            assert "\n" not in str(actual)
            continue
        assert not isinstance(expected, UserError), f"{name} {change}: {expected}"
        for ours, theirs in zip(actual, expected, strict=True):
            # A value rounded to the next integer is worth some hundredths of a logit.
            np.testing.assert_allclose(
                ours, theirs, rtol=0.05, atol=0.05, err_msg=f"{name} {change}"
            )
    assert MUTANTS / 2 < refused < MUTANTS


def constant_with(file: Path, part: str) -> tuple[str, np.ndarray]:
    for tensor in onnx.load(file).graph.initializer:
        if part in tensor.name:
            return tensor.name, numpy_helper.to_array(tensor)
    raise AssertionError(part)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("query.bias", lambda x: x[:4], r"its bias is float32 \[4\]; expected float32 \[32\]"),
        ("query.bias", lambda x: np.tile(x, 2), r"float32 \[64\]; expected float32 \[32\]"),
        (
            "query.weight_quantized",
            lambda x: x[:, :16],
            r"MatMul '\w+': its bias is float32 \[32\]; expected float32 \[16\]",
        ),
        (
            "intermediate.dense.weight_quantized",
            lambda x: x[:16],
            r"the weight of '\w+', as \[out, in\], has shape \[64, 16\], expected \[64, 32\]",
        ),
        (
            "output.LayerNorm.bias",
            lambda x: x[:8],
            r"the bias of '\w+' has shape \[8\], expected \[32\]",
        ),
        (
            "word_embeddings.weight_quantized",
            lambda x: x[:, :16],
            r"word_embeddings.weight_quantized has shape \[153, 16\], expected \[rows, 32\]",
        ),
        ("LayerNorm.weight", lambda x: x.astype(np.float64), r"is float64, expected float32"),
        ("classifier.bias", lambda x: x * np.nan, r"'classifier.bias' holds 2 values that are NaN"),
    ],
)
def test_the_array_and_the_expected_shape_are_named(
    part: str, change: object, message: str, tmp_path: Path
) -> None:
    assert callable(change)
    name, array = constant_with(INT8, part)
    write_mutant(INT8, name, change(array), tmp_path / "model.onnx")
    with pytest.raises(UserError, match=message):
        SparseRuntime(tmp_path / "model.onnx", 1)


def with_terms(file: Path, target: Path, terms: list[str]) -> None:
    """The graph with `terms` added to the first scores: functions of positions, or its own."""
    model = onnx.load(file)
    graph, made = model.graph, helper.make_node
    config = json.loads((file.parent / "model" / "config.json").read_text())
    slopes = np.linspace(-0.5, 0.4, config["num_attention_heads"], dtype=np.float32)
    for name, values in {
        "slopes": slopes.reshape(1, -1, 1, 1),
        "none": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "first_axes": np.array([1, 2], np.int64),
        "outer_axes": np.array([1, 3], np.int64),
    }.items():
        graph.initializer.append(numpy_helper.from_array(values, name))
    first = [
        made("Mul", ["input_ids", "none"], ["nothing"]),
        made("Add", ["nothing", "one"], ["ones"]),
        made("CumSum", ["ones", "one"], ["counted"]),
        made("Cast", ["counted"], ["positions"], to=TensorProto.FLOAT),
        made("Unsqueeze", ["positions", "first_axes"], ["of_keys"]),
        made("Unsqueeze", ["positions", "outer_axes"], ["of_queries"]),
        made("Sub", ["of_keys", "of_queries"], ["distances"]),
        made("Mul", ["of_keys", "slopes"], ["keys"]),
        made("Mul", ["of_queries", "slopes"], ["queries"]),
        made("Mul", ["distances", "slopes"], ["pairs"]),
    ]
    nodes = list(graph.node)
    producers = {output: node for node in nodes for output in node.output}
    # The last layer has the scores of the first token alone.
    softmax = next(node for node in nodes if node.op_type == "Softmax")
    own = producers[softmax.input[0]].input[1]
    for place, term in enumerate(terms):
        new = made("Add", [softmax.input[0], own if term == "own" else term], [f"with_{place}"])
        nodes.insert(nodes.index(softmax), new)
        softmax.input[0] = new.output[0]
    # The shapes that were inferred before.
    del graph.node[:]
    del graph.value_info[:]
    graph.node.extend(first + nodes)
    onnx.save(model, target)


@pytest.mark.parametrize(
    ("terms", "refused"),
    [
        (["keys"], False),
        (["pairs"], False),
        (["keys", "pairs"], False),
        (["queries"], True),
        (["own"], True),
        (["pairs", "pairs"], True),
    ],
)
def test_terms_of_every_shape(
    terms: list[str], refused: bool, float32: Path, tmp_path: Path
) -> None:
    """A bias of keys in each head, as of ALiBi, stands once for all queries."""
    with_terms(float32, tmp_path / "model.onnx", terms)
    for batch, length in ((1, 8), (2, 40), (1, 130)):
        inputs = texts(batch, length, padded=False)
        expected = OnnxRuntime(tmp_path / "model.onnx", 1).run(inputs)
        if refused:
            with pytest.raises(UserError, match=r"twice|expected float32"):
                SparseRuntime(tmp_path / "model.onnx", 1).run(inputs)
        else:
            found = SparseRuntime(tmp_path / "model.onnx", 1).run(inputs)
            np.testing.assert_allclose(found, expected, atol=1e-5)
            assert np.abs(found - OnnxRuntime(float32, 1).run(inputs)).max() > 1e-3


# The inputs of a Slice.
STARTS, ENDS, AXES = 1, 2, 3


def with_inputs(graph: Path, target: Path, changes: list[tuple[str, str, int, int]]) -> None:
    """The graph where each node of a type that a node of another type reads has another input.

    changes: both types, the index of the input, and the only element of its new value.
    """
    model = onnx.load(graph)
    readers = {name: node.op_type for node in model.graph.node for name in node.input}
    for op, reader, index, value in changes:
        name = f"changed_{op}_{reader}_{index}"
        tensor = numpy_helper.from_array(np.array([value]), name)
        model.graph.initializer.append(tensor)
        found = [
            node
            for node in model.graph.node
            if node.op_type == op and readers.get(node.output[0]) == reader
        ]
        assert found
        for node in found:
            node.input[index] = name
    onnx.save(model, target)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [("Slice", "Concat", ENDS, 3), ("Slice", "Neg", STARTS, 3)],
            "it does not rotate the halves of 8 features",
        ),
        (
            [("Slice", "Concat", AXES, 2), ("Slice", "Neg", AXES, 2)],
            "it does not rotate the halves of each head",
        ),
        # Two heads of keys and values, each three times instead of twice.
        ([("Concat", "Expand", 2, 3)], "its heads do not have the query's 32 features"),
    ],
)
def test_heads_that_the_kernels_would_read_otherwise(
    eurobert: Path, tmp_path: Path, changes: list[tuple[str, str, int, int]], message: str
) -> None:
    with_inputs(eurobert, tmp_path / "model.onnx", changes)
    with pytest.raises(UserError, match=message):
        SparseRuntime(tmp_path / "model.onnx", 1)


@pytest.mark.slow
def test_a_gate_of_another_size_than_its_factor(eurobert: Path, tmp_path: Path) -> None:
    name, array = constant_with(eurobert, "gate_proj.weight")
    write_mutant(eurobert, name, array[:, :32], tmp_path / "model.onnx")
    with pytest.raises(UserError, match="the gate and its factor have different sizes"):
        SparseRuntime(tmp_path / "model.onnx", 1)


def test_heads_that_do_not_divide_the_width(float32: Path, tmp_path: Path) -> None:
    """Width 32 in heads of 12."""
    source = float32
    for name, change, array in mutants(float32):
        if change == "flat" and array.dtype == np.int64 and array[-1:].tolist() == [16]:
            write_mutant(source, name, np.where(array == 16, 12, array), tmp_path / "model.onnx")
            source = tmp_path / "model.onnx"
    with pytest.raises(UserError, match="heads of 12 features do not divide the width 32"):
        SparseRuntime(tmp_path / "model.onnx", 1)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    model = onnx.load(INT8)
    onnx.save(
        model, tmp_path / "model.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    for kind in (OnnxRuntime, SparseRuntime):
        with pytest.raises(UserError, match="is stored in another file"):
            kind(tmp_path / "model.onnx", 1)


@pytest.mark.parametrize("kind", [OnnxRuntime, SparseRuntime])
def test_inputs_that_the_graph_cannot_take(kind: type[OnnxRuntime]) -> None:
    runtime, inputs = kind(INT8, 1), texts(2, 9)
    with pytest.raises(UserError, match="the graph reads token_type_ids; the given inputs are"):
        runtime.run({name: ids for name, ids in inputs.items() if name != "token_type_ids"})
    with pytest.raises(UserError, match=r"attention_mask \[2, 3\]"):
        runtime.run(dict(inputs) | {"attention_mask": inputs["attention_mask"][:, :3]})
    with pytest.raises(UserError, match="without a size of 0"):
        runtime.run({name: ids[:0] for name, ids in inputs.items()})
    with pytest.raises(UserError, match="input_ids is float64; convert it to int64"):
        runtime.run(dict(inputs) | {"input_ids": inputs["input_ids"] * 1.0})
    with pytest.raises(UserError, match=r"positions|model_max_length"):
        runtime.run(texts(1, 600))
    with pytest.raises(UserError, match=r"token_type_ids holds 9|cannot run"):
        runtime.run(dict(inputs) | {"token_type_ids": inputs["token_type_ids"] * 0 + 9})


def test_large_batches_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, inputs = SparseRuntime(INT8, 2), texts(50, 9)
    whole = runtime.run(inputs)
    monkeypatch.setattr(runtime_module, "MOST_ROWS", 16)
    assert np.array_equal(runtime.run(inputs), whole)


@pytest.mark.slow
def test_a_million_rows() -> None:
    ids = np.full((1_100_000, 1), 7)
    inputs = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
    logits = SparseRuntime(INT8, 2).run(inputs)
    assert len(logits) == len(ids) and np.ptp(logits, axis=0).max() == 0


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of kernels with the sanitizer, which are compiled once."""
    return tmp_path_factory.mktemp("sanitized")


@pytest.mark.slow
@pytest.mark.sanitizer
@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizer is preloaded as on Linux")
@pytest.mark.parametrize("form", ["int8", "float32"])
def test_kernels_stay_within_memory(
    form: str, float32: Path, sanitized: Path, tmp_path: Path
) -> None:
    """Mutants that are not refused, under gcc's address sanitizer."""
    # The sanitizer has to find C++'s exceptions when it is loaded, before onnx brings them.
    preloaded = [
        subprocess.check_output(["cc", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    if not all(Path(library).is_file() for library in preloaded):
        pytest.skip("the compiler has no address sanitizer")
    graph = INT8 if form == "int8" else float32
    environment = os.environ | {
        "CC": "cc -fsanitize=address",
        "LD_PRELOAD": " ".join(preloaded),
        "ASAN_OPTIONS": "detect_leaks=0",
        "SPARSEKIT_CACHE": str(sanitized),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, sparse_mutants.__file__, str(graph), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=550)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
