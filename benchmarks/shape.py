"""BERT-base with fewer heads and neurons, int8, on every runtime, against dense fp32 onnxruntime.

    python benchmarks/shape.py                        # some ten minutes
    python benchmarks/shape.py --layers 2 --rounds 2  # the smallest one

Speed does not depend on the values of the weights, so they are random. One text of 128 tokens, one
thread; all models alternate in one process, and a ratio is that of the fastest runs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from transformers import BertConfig

from sparsekit.benchmark.latency import random_inputs, random_model, write_size
from sparsekit.runs.progress import quiet_libraries
from sparsekit.runtime.base import Runtime
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.system import cpu_name

# Heads and neurons of each layer, zeros in what is left.
SHAPES = {
    "all": (12, 3072, 0.0),
    "all, 80 % zeros": (12, 3072, 0.8),
    "1,024 neurons": (12, 1024, 0.0),
    "6 heads, 1,024 neurons": (6, 1024, 0.0),
    "6 heads, 1,024 neurons, 80 % zeros": (6, 1024, 0.8),
    "4 heads, 512 neurons, 80 % zeros": (4, 512, 0.8),
}
RUNTIMES: tuple[type[Runtime], ...] = (OnnxRuntime, OpenVinoRuntime, SparseRuntime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    quiet_libraries()
    model = random_model(BertConfig(num_hidden_layers=arguments.layers, num_labels=2))
    inputs = random_inputs(1, arguments.sequence, model.config.vocab_size)
    loaded: dict[tuple[str, str], Runtime] = {}
    with tempfile.TemporaryDirectory() as folder:
        dense, file = Path(folder) / "dense.onnx", Path(folder) / "model.onnx"
        whole = [(12, 3072)] * arguments.layers
        write_size(model, whole, dense, "qdq", sparsity=0.0, int8=False)
        baseline = OnnxRuntime(dense, 1)
        for name, (heads, neurons, sparsity) in SHAPES.items():
            sizes = [(heads, neurons)] * arguments.layers
            write_size(model, sizes, file, "qdq", sparsity=sparsity, int8=True)
            for runtime in RUNTIMES:
                loaded[name, runtime.name] = runtime(file, 1)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in loaded}
    base: list[float] = []
    for _ in range(arguments.rounds):
        base += [baseline.seconds(inputs) for _ in range(3)]
        for key, each in loaded.items():
            each.seconds(inputs)
            times[key] += [each.seconds(inputs) for _ in range(4)]
    print(f"{cpu_name()}, 1 thread, 1 x {arguments.sequence}, {arguments.layers} layers")
    print(f"dense float32, onnxruntime: {min(base) * 1e3:.1f} ms")
    print("| int8 | " + " | ".join(runtime.name for runtime in RUNTIMES) + " |")
    for name in SHAPES:
        found = [min(times[name, runtime.name]) for runtime in RUNTIMES]
        cells = [f"{each * 1e3:.1f} ms, {min(base) / each:.1f}x" for each in found]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
