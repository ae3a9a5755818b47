"""DeepSparse's engines have fixed shapes: few are made, and few are kept."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import numpy as np
import pytest

from sparsekit.runtime.deepsparse import DeepSparseRuntime
from sparsekit.sparseml.peer import WORKERS

ENGINE = """
import numpy as np

__version__ = "fake"
alive = set()


class Engine:
    fraction_of_supported_ops = 1.0

    def __init__(self, model, batch_size, num_cores, input_shapes):
        alive.add(id(self))

    def __del__(self):
        alive.discard(id(self))

    def run(self, arrays):
        return [np.full((1, 1), len(alive), np.float32)]
"""


def test_engines_used_longest_ago_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "deepsparse.py").write_text(ENGINE)
    script = tmp_path / "worker.py"
    script.write_bytes((WORKERS / "deepsparse.py").read_bytes())
    asked = b"".join(
        json.dumps({"shape": [batch, 1], "inputs": 1}).encode() + b"\n" + bytes(8 * batch)
        for batch in range(1, 41)
    )
    # Beside its own name's module: Python looks in the script's folder first.
    done = subprocess.run(
        [sys.executable, script, "model.onnx", "1"],
        input=asked,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True,
    )
    alive = np.frombuffer(done.stdout[-4:], np.float32)[0]
    assert alive == 16


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (3, 4), (4, 4), (17, 32)])
def test_a_batch_is_padded_to_a_power_of_two(batch: int, rows: int) -> None:
    runtime = object.__new__(DeepSparseRuntime)
    runtime._names, runtime._lengths, runtime._per_token = ["input_ids"], [8], [False]
    answer = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    sent = io.BytesIO()
    runtime._lock = Lock()
    runtime._process = SimpleNamespace(stdin=sent, stdout=io.BytesIO(answer.tobytes()))  # type: ignore[assignment]
    runtime._answer = lambda: {"shapes": [[rows, 2]]}  # type: ignore[method-assign]
    logits = runtime.run({"input_ids": np.ones((batch, 5), np.int64)})
    np.testing.assert_array_equal(logits, answer[:batch])
    header, _, data = sent.getvalue().partition(b"\n")
    assert json.loads(header)["shape"] == [rows, 8]
    np.testing.assert_array_equal(
        np.frombuffer(data, np.int64).reshape(rows, 8), np.tile([1] * 5 + [0] * 3, (rows, 1))
    )


def test_outputs_of_tokens_lose_the_padding_and_others_do_not() -> None:
    """A classifier of 8 labels on an engine of 8 tokens keeps all of its labels."""
    runtime = object.__new__(DeepSparseRuntime)
    runtime._names, runtime._lengths = ["input_ids"], [8]
    runtime._per_token = [True, False]
    first, second = (np.arange(16, dtype=np.float32).reshape(2, 8) + each for each in (0, 100))
    runtime._lock = Lock()
    stdout = io.BytesIO(first.tobytes() + second.tobytes())
    runtime._process = SimpleNamespace(stdin=io.BytesIO(), stdout=stdout)  # type: ignore[assignment]
    runtime._answer = lambda: {"shapes": [[2, 8], [2, 8]]}  # type: ignore[method-assign]
    starts, scores = runtime.outputs({"input_ids": np.ones((2, 5), np.int64)})
    np.testing.assert_array_equal(starts, first[:, :5])
    np.testing.assert_array_equal(scores, second)
