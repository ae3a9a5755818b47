"""Shaped models on every runtime: how fast, and whether the latency table knows it before.

    python benchmarks/shape.py                                      # some eight minutes
    python benchmarks/shape.py --only bert --predict bert           # some fifteen minutes
    python benchmarks/shape.py --only minilm --layers 1 --rounds 1  # the smallest one

BERT-base's shape with fewer heads and neurons, in int8 and with zeros, against dense float32
onnxruntime (target: 20x on runtime=sparse). MiniLM's shape with fewer heads and neurons, in int8,
against all of them in int8 on the same runtime (targets: 2.5x on onnxruntime and OpenVINO; on
runtime=sparse 1.5x of 80 % zeros alone).

Speed does not depend on the values of the weights, so they are random. One text of 128 tokens, one
thread; the files of a model alternate in one process, and a ratio is that of the fastest runs. A
prediction is made as `recipe.max_latency` makes it: from a table of differences between other
models (target: within 10 %). These take turns with the models that are predicted, since a machine
that is shared is not equally fast at all times.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from transformers import BertConfig, PreTrainedConfig

from sparsekit.benchmark.grid import example
from sparsekit.benchmark.latency import (
    LatencyGrid,
    fit_costs,
    grid_sizes,
    random_model,
    time_sizes,
    write_size,
)
from sparsekit.runs.progress import quiet_libraries
from sparsekit.runtime.base import Runtime
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.system import cpu_name

RUNTIMES: tuple[type[Runtime], ...] = (OnnxRuntime, OpenVinoRuntime, SparseRuntime)
ZEROS = 0.8


@dataclass(frozen=True)
class Size:
    """Heads and neurons of each layer, and the zeros in what is left."""

    heads: int
    neurons: int
    zeros: float = 0.0


# By model: its config, and its sizes by name. The first two are whole.
SIZES: dict[str, tuple[BertConfig, dict[str, Size]]] = {
    "bert": (
        BertConfig(num_labels=2),
        {
            "all": Size(12, 3072),
            "all, 80 % zeros": Size(12, 3072, ZEROS),
            "1,024 neurons": Size(12, 1024),
            "6 heads, 1,024 neurons": Size(6, 1024),
            "6 heads, 1,024 neurons, 80 % zeros": Size(6, 1024, ZEROS),
            "4 heads, 512 neurons, 80 % zeros": Size(4, 512, ZEROS),
            "2 heads, 512 neurons, 80 % zeros": Size(2, 512, ZEROS),
        },
    ),
    "minilm": (
        BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536, num_labels=2),
        {
            "all": Size(12, 1536),
            "all, 80 % zeros": Size(12, 1536, ZEROS),
            "6 heads, 384 neurons": Size(6, 384),
            "4 heads, 264 neurons": Size(4, 264),
            "2 heads, 128 neurons": Size(2, 128),
            "6 heads, 384 neurons, 80 % zeros": Size(6, 384, ZEROS),
            "4 heads, 264 neurons, 80 % zeros": Size(4, 264, ZEROS),
        },
    ),
}

Times = dict[tuple[str, str], float]  # the least seconds, by size and runtime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(SIZES), help="one of the two models")
    parser.add_argument("--layers", type=int, help="so many of each model's layers")
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument(
        "--predict", nargs="*", choices=list(SIZES), default=["minilm"], help="models with tables"
    )
    arguments = parser.parse_args()
    quiet_libraries()
    logging.getLogger("sparsekit").setLevel(logging.WARNING)
    print(f"{cpu_name()}, 1 thread, 1 x {arguments.sequence}")
    for name, (config, sizes) in SIZES.items():
        if arguments.only not in (None, name):
            continue
        if arguments.layers is not None:
            config.num_hidden_layers = arguments.layers
        base, times = measure(config, sizes, arguments.sequence, arguments.rounds)
        show(name, config, sizes, base, times)
        if name in arguments.predict:
            predict(config, sizes, arguments.sequence, arguments.rounds)


def measure(
    config: PreTrainedConfig, sizes: dict[str, Size], sequence: int, rounds: int
) -> tuple[float, Times]:
    """The least seconds of dense float32 onnxruntime, and those of every size in int8."""
    model, layers = random_model(config), config.num_hidden_layers
    inputs = example(1, sequence, model.config.vocab_size)
    loaded: dict[tuple[str, str], Runtime] = {}
    with tempfile.TemporaryDirectory() as folder:
        dense, file = Path(folder) / "dense.onnx", Path(folder) / "model.onnx"
        whole = next(iter(sizes.values()))
        float32, int8 = (LatencyGrid(threads=1, int8=each) for each in (False, True))
        write_size(model, [(whole.heads, whole.neurons)] * layers, dense, "qdq", float32, 0.0)
        baseline = OnnxRuntime(dense, 1)
        for name, size in sizes.items():
            cut = [(size.heads, size.neurons)] * layers
            write_size(model, cut, file, "qdq", int8, size.zeros)
            for runtime in RUNTIMES:
                loaded[name, runtime.name] = runtime(file, 1)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in loaded}
    base: list[float] = []
    for _ in range(rounds):
        base += [baseline.seconds(inputs) for _ in range(3)]
        for key, each in loaded.items():
            each.seconds(inputs)
            times[key] += [each.seconds(inputs) for _ in range(4)]
    return min(base), {key: min(found) for key, found in times.items()}


def predict(config: PreTrainedConfig, sizes: dict[str, Size], sequence: int, rounds: int) -> None:
    """Print what a table says of each size beside its time; zeros count on one runtime alone."""
    model, layers = random_model(config), config.num_hidden_layers
    grid = LatencyGrid(threads=1, sequence=sequence, rounds=rounds)
    points = grid_sizes(model)
    print("predicted by a latency table, and how far from what was measured in the same rounds:")
    for runtime in RUNTIMES:
        differences = []
        for zeros in (0.0, ZEROS) if runtime is SparseRuntime else (0.0,):
            named = {name: size for name, size in sizes.items() if size.zeros == zeros}
            asked = {name: [(size.heads, size.neurons)] * layers for name, size in named.items()}
            seconds = time_sizes(model, runtime, grid, {**points, **asked}, zeros)
            costs = fit_costs({point: seconds[point] for point in points}, layers)
            for name, size in named.items():
                expected = costs.predict([size.heads] * layers, [size.neurons] * layers)
                differences.append(expected / seconds[name] - 1)
                print(
                    f"{runtime.name}, {name}: {expected * 1e3:.2f} ms, {differences[-1]:+.0%}",
                    flush=True,
                )
        print(f"{runtime.name}: predictions differ by up to {max(map(abs, differences)):.0%}")


def show(
    name: str, config: PreTrainedConfig, sizes: dict[str, Size], base: float, times: Times
) -> None:
    print(f"\n{name}, {config.num_hidden_layers} layers of {config.hidden_size}")
    print(f"dense float32, onnxruntime: {base * 1e3:.1f} ms; times as fast as that, in int8,")
    print("as all heads and neurons in int8 on the same runtime, and as these with 80 % zeros:")
    print("| | " + " | ".join(runtime.name for runtime in RUNTIMES) + " |")
    print("|---" * (len(RUNTIMES) + 1) + "|")
    for size in sizes:
        cells = []
        for runtime in RUNTIMES:
            seconds = times[size, runtime.name]
            whole, zeros = (times[each, runtime.name] for each in list(sizes)[:2])
            ratios = [f"{each / seconds:.1f}x" for each in (base, whole, zeros)]
            cells.append(f"{seconds * 1e3:.2f} ms: {', '.join(ratios)}")
        print(f"| {size} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
