"""runtime=sparse has the logits of onnxruntime on the same file, for any texts and threads."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compiler import needs_compiler
from sparse_graphs import POSITIONS, VOCABULARY, texts, write_graph

from sparsekit.benchmark.requests import BenchmarkConfig
from sparsekit.errors import UserError
from sparsekit.kernels.library import is_available, library
from sparsekit.kernels.variants import VARIANTS, runnable
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.sparse import native
from sparsekit.runtime.sparse import runtime as runtime_module
from sparsekit.runtime.sparse.c_structures import LayerStruct
from sparsekit.runtime.sparse.runtime import SparseRuntime, refusal
from sparsekit.runtime.sparse.weights import Format
from sparsekit.system import cpu_flags
from sparsekit.tasks.token_classification import TokenClassification

BERTS: dict[str, dict[str, Any]] = {
    "int8": {},
    "denser": {"sparsity": 0.3},
    "channels": {"per_channel_weights": True},
    "attention": {"quantize_attention": True},
    "float32": {"quantized": False},
}


# How far one step of int8 moves a logit.
LARGEST = 0.05


@pytest.fixture(scope="session")
def berts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The graphs of one BERT, quantized in several ways."""
    return {
        name: write_graph(tmp_path_factory.mktemp(name), "bert", **settings)
        for name, settings in BERTS.items()
    }


def check_answers(file: Path, threads: int, cells: Iterable[tuple[int, int]]) -> None:
    """The same logits but for the order of float32 additions, and so the same labels but for ties.

    Where that order moves a number over the edge between two integers logits differ by what one
    step of int8 is worth, which is rare.
    """
    reference, sparse = OnnxRuntime(file, threads=1), SparseRuntime(file, threads)
    differences = []
    for batch, length in cells:
        for padded in (False, True):
            inputs = texts(batch, length, seed=length, padded=padded)
            expected, actual = reference.run(inputs), sparse.run(inputs)
            assert actual.dtype == np.float32
            first, second = np.sort(expected, axis=1)[:, :-3:-1].T
            decided = first - second > 4 * LARGEST
            assert (actual.argmax(axis=1) == expected.argmax(axis=1))[decided].all()
            differences.append(np.abs(actual - expected).max(axis=1))
    rows = np.concatenate(differences)
    assert np.median(rows) < 1e-5
    assert (rows < 1e-3).mean() > 0.6
    # Several steps may add up in a row of hundreds.
    assert np.quantile(rows, 0.99) < LARGEST
    assert rows.max() < 2 * LARGEST


@needs_compiler
@pytest.mark.parametrize("name", BERTS)
def test_logits_are_those_of_onnxruntime(berts: dict[str, Path], name: str) -> None:
    ones = [(1, length) for length in (1, 15, 16, 17, 128, 129, POSITIONS)]
    check_answers(berts[name], 1, [*ones, (3, 17), (3, 200), (32, 1), (32, 40)])
    logits = OnnxRuntime(berts[name], threads=1).run(texts(32, 40))
    assert logits.std(axis=0).min() > 0.2, "the texts get different logits, or nothing is tested"


@needs_compiler
def test_bytes_are_multiplied_wherever_they_can_be(berts: dict[str, Path]) -> None:
    encoder = SparseRuntime(berts["int8"], threads=1)._encoder
    if not encoder.int8:
        pytest.skip("this processor multiplies no bytes")
    layers = {name: first_layer(SparseRuntime(file, 1)) for name, file in berts.items()}
    assert layers["int8"].intermediate.format == Format.PLANES
    assert layers["attention"].intermediate.format == Format.PLANES
    assert layers["float32"].intermediate.format == Format.FLOAT32
    if not encoder.dot_products:  # pairs of weights alone, which are known when they are packed
        assert layers["denser"].intermediate.format == Format.PLANES
        assert layers["attention"].attention.query.format == Format.ROUNDED
        return
    assert layers["denser"].intermediate.format == Format.PACKED
    assert layers["attention"].attention.query.format == Format.PACKED
    assert layers["attention"].attention.value.format == Format.PLANES
    assert layers["int8"].attention.query.format == Format.FLOAT32


def first_layer(runtime: SparseRuntime) -> LayerStruct:
    layer: LayerStruct = runtime._encoder._struct.layer[0]
    return layer


@needs_compiler
@pytest.mark.parametrize("model", ["bert", "bert_tiles"])
def test_scores_that_overflow_are_not_answered(tmp_path: Path, model: str) -> None:
    """Logits are NaN, as those of onnxruntime, where scores are infinite."""
    file = write_graph(tmp_path, model, quantized=False)
    graph = onnx.load(file)
    for tensor in graph.graph.initializer:
        if "layer.0.attention.self" in tensor.name and tensor.name.endswith("bias"):
            bias = onnx.numpy_helper.to_array(tensor)
            large = np.full_like(bias, 3e19)
            tensor.CopyFrom(onnx.numpy_helper.from_array(large, tensor.name))
    onnx.save(graph, file)
    for runtime in (OnnxRuntime(file, threads=1), SparseRuntime(file, threads=1)):
        assert np.isnan(runtime.run(texts(2, 9, padded=False))).all()


@needs_compiler
def test_float32_logits_are_precise(berts: dict[str, Path]) -> None:
    inputs = texts(32, 40)
    expected = OnnxRuntime(berts["float32"], threads=1).run(inputs)
    actual = SparseRuntime(berts["float32"], threads=1).run(inputs)
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


@needs_compiler
@pytest.mark.parametrize("name", BERTS)
def test_threads_do_not_change_a_bit(berts: dict[str, Path], name: str) -> None:
    runtimes = [SparseRuntime(berts[name], threads) for threads in (1, 2, 3, 7)]
    for batch, length in ((1, 128), (1, 17), (1, POSITIONS), (3, 100), (32, 9)):
        first, *others = [runtime.run(texts(batch, length)) for runtime in runtimes]
        for other in others:
            assert np.array_equal(first, other)


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="a limit that the system puts on memory")
def test_fewer_threads_than_were_requested(berts: dict[str, Path]) -> None:
    """The system may refuse threads: here there is no memory for their stacks."""
    code = (
        "import os, resource, sys, pathlib, numpy as np\n"
        "from sparsekit.runtime.sparse.runtime import SparseRuntime\n"
        "file, ids = pathlib.Path(sys.argv[1]), np.full((3, 100), 7)\n"
        "inputs = {'input_ids': ids, 'attention_mask': ids * 0 + 1, 'token_type_ids': ids * 0}\n"
        "alone = SparseRuntime(file, threads=1).run(inputs)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "limit, most = resource.getrlimit(resource.RLIMIT_AS)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), most))\n"
        "many = SparseRuntime(file, threads=300)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, most))\n"
        "assert len(os.listdir('/proc/self/task')) < 290\n"
        "answers = [many.run(inputs) for _ in range(3)]\n"
        "assert all(np.array_equal(alone, answer) for answer in answers)\n"
    )
    done = in_a_process(code, berts["int8"])
    assert done.returncode == 0, done.stderr


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_has_threads_of_its_own(berts: dict[str, Path]) -> None:
    code = (
        "import os, sys, pathlib, numpy as np\n"
        "from sparsekit.runtime.sparse.runtime import SparseRuntime\n"
        "ids = np.full((3, 100), 7)\n"
        "inputs = {'input_ids': ids, 'attention_mask': ids * 0 + 1, 'token_type_ids': ids * 0}\n"
        "sparse = SparseRuntime(pathlib.Path(sys.argv[1]), threads=3)\n"
        "expected = sparse.run(inputs)\n"
        "threads = lambda: len(os.listdir('/proc/self/task')) if os.path.exists('/proc') else 3\n"
        "child = os.fork()\n"
        "assert np.array_equal(sparse.run(inputs), expected)\n"
        "assert threads() >= 3\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = in_a_process(code, berts["int8"])
    assert done.returncode == 0, done.stderr


def in_a_process(code: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which threads there are")
def test_threads_end_with_their_runtime(berts: dict[str, Path]) -> None:
    before = set(os.listdir("/proc/self/task"))
    runtime = SparseRuntime(berts["int8"], threads=4)
    own = set(os.listdir("/proc/self/task")) - before
    assert len(own) == 3
    del runtime
    gc.collect()
    # A thread that has been joined stays in the list for a moment.
    limit = time.monotonic() + 10
    while own & set(os.listdir("/proc/self/task")):
        assert time.monotonic() < limit
        time.sleep(0.01)


@needs_compiler
def test_calls_from_several_threads(berts: dict[str, Path]) -> None:
    sparse = SparseRuntime(berts["int8"], threads=2)
    inputs = [texts(2, length) for length in (5, 40, 150)]
    expected = [sparse.run(each) for each in inputs]
    with ThreadPoolExecutor(3) as pool:
        actual = list(pool.map(sparse.run, inputs * 5))
    assert all(np.array_equal(*pair) for pair in zip(actual, expected * 5, strict=True))


@needs_compiler
@pytest.mark.parametrize(("name", "limit"), [("float32", 1e-5), ("int8", LARGEST)])
def test_masks_of_nothing_and_of_gaps(berts: dict[str, Path], name: str, limit: float) -> None:
    file = berts[name]
    inputs = dict(texts(3, 24, padded=False))
    mask = np.ones((3, 24), np.int64)
    mask[0] = 0
    mask[1, ::2] = 0
    mask[2, :20] = 0
    inputs["attention_mask"] = mask
    expected = OnnxRuntime(file, threads=1).run(inputs)
    actual = SparseRuntime(file, threads=1).run(inputs)
    np.testing.assert_allclose(actual, expected, atol=limit, rtol=0)


@needs_compiler
@pytest.mark.parametrize(
    "model",
    [
        "albert",
        "mpnet",
        "nomic_bert",
        "eurobert",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("gte", "jina_v3", "eurobert_bos", "llama", "qwen2"),
                *("bert_relu", "bert_tanh", "bert_silu", "roberta", "camembert", "xlm_roberta"),
                *("electra", "distilbert", "roberta_prelayernorm", "megatron_bert"),
            )
        ),
    ],
)
def test_encoders_of_other_names(tmp_path: Path, model: str) -> None:
    check_answers(write_graph(tmp_path, model), 2, [(1, 1), (3, 17), (2, 140)])


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "model",
    [
        *("modernbert", "modernbert_mean", "mpnet", "nomic_bert", "gte", "jina_v3"),
        *("eurobert", "eurobert_bos", "llama", "qwen2"),
    ],
)
def test_positions_in_float32(tmp_path: Path, model: str) -> None:
    """Rotations, windows and terms of pairs, for lengths around the window and in batches."""
    file = write_graph(tmp_path, model, quantized=False)
    reference, sparse = OnnxRuntime(file, threads=1), SparseRuntime(file, threads=2)
    for batch, length in ((1, 1), (1, 8), (1, 9), (2, 17), (5, 40), (3, 130), (2, POSITIONS)):
        for padded in (False, True):
            inputs = texts(batch, length, seed=length, padded=padded)
            expected, actual = reference.run(inputs), sparse.run(inputs)
            np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-3, "the texts get different logits"


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("quantize_attention", [False, True])
def test_a_quantized_modernbert(tmp_path: Path, quantize_attention: bool) -> None:
    file = write_graph(tmp_path, "modernbert", quantize_attention=quantize_attention)
    check_answers(file, 2, [(1, 1), (3, 17), (2, 140)])


@needs_compiler
@pytest.mark.parametrize("quantized", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_deberta(tmp_path: Path, quantized: bool) -> None:
    """Lengths around those at which a bucket holds several distances, and tables of them grow."""
    file = write_graph(tmp_path, "deberta_v3", quantized=quantized)
    cells = [(1, length) for length in (1, 2, 15, 16, 17, 31, 32, 33, 128, 129, 600)]
    if quantized:
        check_answers(file, 2, [*cells, (3, 17), (5, 40), (3, 130)])
        return
    runtimes = [SparseRuntime(file, threads) for threads in (1, 2, 3)]
    reference = OnnxRuntime(file, threads=1)
    for batch, length in (*cells, (3, 17), (5, 40), (3, 130), (32, 9)):
        for padded in (False, True):
            inputs = texts(batch, length, seed=length, padded=padded)
            first, *others = [runtime.run(inputs) for runtime in runtimes]
            np.testing.assert_allclose(first, reference.run(inputs), atol=1e-5, rtol=0)
            assert all(np.array_equal(first, other) for other in others)
    assert np.ptp(first, axis=0).min() > 0.1, "the texts get different logits"


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "model",
    [
        "deberta_v2_keys",
        "deberta_v2_queries",
        "deberta_v2_content",
        "deberta_v2_apart",
        "deberta_v2_embeddings",
        "deberta_v2_biased",
    ],
)
def test_other_debertas(tmp_path: Path, model: str) -> None:
    file = write_graph(tmp_path, model, quantized=False)
    reference, sparse = OnnxRuntime(file, threads=1), SparseRuntime(file, threads=2)
    for batch, length in ((1, 1), (2, 33), (3, 130)):
        for padded in (False, True):
            inputs = texts(batch, length, seed=length, padded=padded)
            np.testing.assert_allclose(
                sparse.run(inputs), reference.run(inputs), atol=1e-5, rtol=1e-5
            )


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("quantized", [False, True])
def test_all_tokens_of_a_deberta(tmp_path: Path, quantized: bool) -> None:
    file = write_graph(
        tmp_path, "deberta_v3_tokens", quantized=quantized, task=TokenClassification()
    )
    reference, sparse = OnnxRuntime(file, threads=1), SparseRuntime(file, threads=2)
    differences = []
    for batch, length in ((1, 1), (2, 33), (3, 130), (5, 200)):
        inputs = texts(batch, length, seed=length)
        real = np.asarray(inputs["attention_mask"], bool)
        differences.append(np.abs(sparse.run(inputs) - reference.run(inputs))[real].ravel())
    found = np.concatenate(differences)
    assert np.median(found) < 1e-5 and found.max() < (0.05 if quantized else 1e-5)


@pytest.mark.slow
@needs_compiler
def test_tokens_that_a_mask_leaves_out_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeBERTa's own read all tokens alike, those of the padding too, and have no embedding."""
    file = write_graph(tmp_path, "deberta_v3", quantized=False)
    inputs = dict(texts(4, 24, padded=False))
    mask = np.ones((4, 24), np.int64)
    mask[0] = 0
    mask[1, ::2] = 0
    mask[2, :20] = 0
    mask[3, 7:] = 0
    inputs["attention_mask"] = mask
    sparse = SparseRuntime(file, threads=1)
    expected = OnnxRuntime(file, threads=1).run(inputs)
    np.testing.assert_allclose(sparse.run(inputs), expected, atol=1e-5, rtol=0)
    one = {name: ids[3:] for name, ids in inputs.items()}
    np.testing.assert_allclose(sparse.run(one), expected[3:], atol=1e-5, rtol=0)
    whole = sparse.run(inputs)
    monkeypatch.setattr(runtime_module, "MOST_PAIRS", 2 * 24**2)
    assert np.array_equal(sparse.run(inputs), whole)


@pytest.mark.slow
@needs_compiler
def test_what_depends_on_the_size_alone_is_kept(tmp_path: Path) -> None:
    """It must not be that of another size, nor keep what depends on the texts."""
    sparse = SparseRuntime(write_graph(tmp_path, "modernbert", quantized=False), threads=1)
    inputs = [texts(2, length, seed) for seed in (0, 1) for length in (20, 33, 20)]
    expected = [SparseRuntime(tmp_path / "model.onnx", threads=1).run(each) for each in inputs]
    assert all(np.array_equal(sparse.run(x), y) for x, y in zip(inputs, expected, strict=True))
    with ThreadPoolExecutor(3) as pool:
        actual = list(pool.map(sparse.run, inputs * 3))
    assert all(np.array_equal(*pair) for pair in zip(actual, expected * 3, strict=True))


@needs_compiler
def test_shared_layers_are_packed_once(tmp_path: Path) -> None:
    encoder = SparseRuntime(write_graph(tmp_path, "albert"), threads=1)._encoder._struct
    layers = [encoder.layer[index] for index in range(encoder.layers)]
    assert len(layers) == 4
    assert len({layer.projection.values for layer in layers}) == 1
    assert len({layer.output.values for layer in layers}) == 1


@needs_compiler
@pytest.mark.parametrize("variant", [*(variant.name for variant in VARIANTS), "sse"])
@pytest.mark.parametrize("name", BERTS)
def test_every_instruction_set(
    berts: dict[str, Path], name: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AVX-512 without VNNI multiplies integers as float32; vectors are as wide as the CPU's."""
    if variant == "sse":
        monkeypatch.setenv("CC", "cc -mno-avx")
    else:
        if variant not in {each.name for each in runnable((cpu_flags() or "").split())}:
            pytest.skip(f"this CPU has no {variant}")
        monkeypatch.setenv("SPARSEKIT_KERNELS", variant)
    library.cache_clear()
    try:
        description = SparseRuntime(berts[name], threads=1).describe()
        assert description["int8"] is (variant not in ("avx512", "sse"))
        assert description["kernels"] == ("native" if variant == "sse" else variant)
        check_answers(berts[name], 2, [(1, 129), (3, 17), (32, 20)])
    finally:
        library.cache_clear()


@needs_compiler
def test_an_instruction_set_that_this_cpu_lacks(
    berts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSEKIT_KERNELS", "avx512")
    monkeypatch.setattr("sparsekit.kernels.library.cpu_flags", lambda: "sse2")
    library.cache_clear()
    try:
        with pytest.raises(UserError, match="SPARSEKIT_KERNELS=avx512: this CPU lacks abm, avx, "):
            SparseRuntime(berts["int8"], threads=1)
    finally:
        library.cache_clear()


@needs_compiler
def test_an_unsupported_architecture_is_named(tmp_path: Path) -> None:
    """By its config beside the graph; a supported one keeps the name of its node."""
    quick = write_graph(tmp_path, "bert_quick_gelu")
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "deberta"}')
    with pytest.raises(
        UserError,
        match=r"does not support the architecture deberta: one layer makes query, key .*; run "
        r"this model with runtime=openvino or runtime=onnxruntime",
    ):
        SparseRuntime(quick, threads=1)
    config.write_text('{"model_type": "deberta-v2", "conv_kernel_size": 3}')
    with pytest.raises(UserError, match=r"deberta-v2: a convolution is added to its first layer"):
        SparseRuntime(quick, threads=1)
    for text in ('{"model_type": "deberta-v2"}', "[]", "{", '{"model_type": []}'):
        config.write_text(text)
        with pytest.raises(UserError, match=r"cannot run \w+ '\S+': no summand"):
            SparseRuntime(quick, threads=1)


@pytest.mark.slow
@needs_compiler
def test_an_unsupported_node_is_named(tmp_path: Path, berts: dict[str, Path]) -> None:
    quick = write_graph(tmp_path, "bert_quick_gelu")
    with pytest.raises(
        UserError,
        match=r"cannot run \w+ '\S+': no summand is a Linear layer after an activation: gelu, "
        r"gelu_tanh, relu, silu; run this model with runtime=onnxruntime",
    ):
        SparseRuntime(quick, threads=1)
    assert "runtime=onnxruntime" in str(refusal(quick)) and refusal(berts["int8"]) is None
    odd = write_graph(tmp_path, "bert_odd_heads")
    with pytest.raises(UserError, match=r"its heads have 6 features, not a multiple of 4"):
        SparseRuntime(odd, threads=1)
    model = onnx.load(berts["int8"])
    [pooler] = [node for node in model.graph.node if node.op_type == "Tanh"]
    pooler.op_type = "Sinh"
    onnx.save(model, tmp_path / "sinh.onnx")
    with pytest.raises(UserError, match=rf"cannot run Sinh '{pooler.name}'"):
        SparseRuntime(tmp_path / "sinh.onnx", threads=1)


@needs_compiler
def test_another_form(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"runtime=sparse cannot run .* with runtime=onnxruntime"):
        SparseRuntime(write_graph(tmp_path, "bert_relu", form="deepsparse"), threads=1)


@needs_compiler
def test_files_that_are_not_graphs(tmp_path: Path, berts: dict[str, Path]) -> None:
    file = tmp_path / "model.onnx"
    with pytest.raises(UserError, match=r"there is no .*model.onnx; export the run first"):
        SparseRuntime(file, threads=1)
    file.write_bytes(berts["int8"].read_bytes()[:5000])
    with pytest.raises(UserError, match=r"model.onnx is not a valid ONNX file"):
        SparseRuntime(file, threads=1)


@needs_compiler
def test_tokens_that_the_model_does_not_have(berts: dict[str, Path]) -> None:
    sparse = SparseRuntime(berts["int8"], threads=1)
    for wrong in (VOCABULARY, -1):
        inputs = texts(2, 5)
        inputs["input_ids"][1, 3] = wrong
        with pytest.raises(UserError, match=rf"input_ids holds {wrong}, the model's table has"):
            sparse.run(inputs)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler(berts: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"there is no C compiler 'no-such-compiler'; install gcc"):
        SparseRuntime(berts["int8"], threads=1)
    with pytest.raises(UserError, match=r"is not installed: there is no C compiler"):
        BenchmarkConfig(runtime="sparsekit.runtime.sparse.runtime.SparseRuntime")
    assert not is_available(native.KERNEL, "nothing")


@needs_compiler
def test_it_needs_no_torch(berts: dict[str, Path]) -> None:
    code = (
        "import sys, pathlib, numpy as np\n"
        "from sparsekit.runtime.sparse.runtime import SparseRuntime\n"
        "ids = np.full((2, 9), 7)\n"
        "inputs = {'input_ids': ids, 'attention_mask': ids * 0 + 1, 'token_type_ids': ids * 0}\n"
        "logits = SparseRuntime(pathlib.Path(sys.argv[1]), threads=2).run(inputs)\n"
        "assert logits.shape == (2, 2) and np.isfinite(logits).all()\n"
        "loaded = {'torch', 'transformers', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(f'imported {loaded}' if loaded else 0)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(berts["int8"])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what each thread did")
@pytest.mark.parametrize(
    ("op", "by"), [("Gemm", "numpy"), ("MatMul", "numpy"), ("MatMul", "kernel")]
)
def test_matmuls_around_the_encoder_start_no_other_thread(op: str, by: str) -> None:
    """Threads of numpy's BLAS would spin on the cores that the encoder's threads need."""
    code = (
        "import os, sys, time, numpy as np\n"
        "from sparsekit.runtime.sparse.dense_matmul import matmul\n"
        "from sparsekit.runtime.sparse.operators import OPERATORS\n"
        "product = OPERATORS[sys.argv[1]] if sys.argv[2] == 'numpy' else matmul\n"
        "def others():\n"
        "    threads = set(os.listdir('/proc/self/task')) - {str(os.getpid())}\n"
        "    stats = [open(f'/proc/self/task/{t}/stat').read() for t in threads]\n"
        "    return sum(int(stat.rpartition(')')[2].split()[11]) for stat in stats)\n"
        "a, b = np.ones((64, 768), np.float32), np.ones((768, 768), np.float32)\n"
        "a = a[None] if sys.argv[2] == 'kernel' else a\n"
        "time.sleep(0.5)\n"  # BLAS has just made its threads, which spin at first
        "before, until = others(), time.process_time() + 0.5\n"
        "while time.process_time() < until:\n"
        "    assert product(a, b).flat[0] == 768\n"
        "sys.exit(f'hundredths of a second: {others() - before}' if others() - before > 5 else 0)"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code, op, by]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
