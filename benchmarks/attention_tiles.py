"""How much faster runtime=sparse is where a CPU's AMX computes attention.

    python benchmarks/attention_tiles.py                                     # a minute
    python benchmarks/attention_tiles.py --layers 1 --tokens 16 --rounds 1   # the smallest run

A model of BERT-base's width with random weights, 90 % zeros, one thread, one text. Each row has the
median time with attention on vectors and how many times as fast tiles are, as the median of the
ratios of all rounds: for float32, which tiles multiply as two parts of bf16, and for int8, as with
`--quantize-attention`. Times are of whole models. What it leaves out: batches and several threads.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from unittest.mock import patch

from inference import write_model
from tiles import one_text, seconds

from sparsekit.benchmark.candidates import candidates
from sparsekit.runs.progress import quiet_libraries
from sparsekit.runtime.sparse import native
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.system import cpu_name
from sparsekit.tasks.text_classification import TextClassification


def runtimes(layers: int, quantize_attention: bool) -> tuple[SparseRuntime, SparseRuntime]:
    """One whose attention uses vectors, and one that uses tiles."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        write_model(model, "bert", layers, 0.9, quantize_attention)
        timed = candidates(model, TextClassification(), Path(scratch))
        (graph,) = [each.file for each in timed if each.runtime is SparseRuntime]
        with patch.object(native, "attention_has_tiles", lambda *_: False):
            vectors = SparseRuntime(graph, threads=1)
        return vectors, SparseRuntime(graph, threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 32, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    if not native.compiled().has_amx():
        parser.exit(1, "this processor has no AMX, whose tiles are compared here\n")
    quiet_libraries()
    print(f"{cpu_name()}, one thread, {options.layers} layers\n")
    print("| tokens | float32, ms | in tiles | int8, ms | in tiles |")
    print("|" + "---|" * 5)
    made = [runtimes(options.layers, quantized) for quantized in (False, True)]
    for tokens in options.tokens:
        inputs = one_text(tokens)
        cells = []
        for pair in made:
            times = [[seconds(each, inputs) for each in pair] for _ in range(options.rounds)]
            cells.append(f"{1e3 * median(vectors for vectors, _ in times):.1f}")
            cells.append(f"{median(vectors / tiles for vectors, tiles in times):.2f}")
        print(f"| {tokens} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
