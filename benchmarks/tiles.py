"""Which format of int8 weights runtime=sparse is fastest with, by share of zeros and tokens.

    python benchmarks/tiles.py                                             # some three minutes
    python benchmarks/tiles.py --layers 1 --sparsity 0.8 --tokens 16 --rounds 1   # the smallest run

For CPUs with AMX, whose tiles multiply zeros too: the figures decide `TILE_COST` of
runtime/sparse/weights.py. A model of BERT-base's width with random weights, one thread, one text;
the formats in turns. Each row has the median time of PLANES, which skips zeros, and how many times
as fast the others are, as the median of the ratios of all rounds. Times are of whole models: what
the formats do not change, such as attention, is in all of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
from inference import write_model

from sparsekit.benchmark.candidates import candidates
from sparsekit.runs.progress import quiet_libraries
from sparsekit.runtime.base import Inputs
from sparsekit.runtime.sparse import native
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.runtime.sparse.weights import Format
from sparsekit.system import cpu_name
from sparsekit.tasks.text_classification import TextClassification

OTHERS = (Format.PACKED, Format.TILES, Format.MASKED_TILES)


def runtimes(sparsity: float, layers: int) -> dict[Format, SparseRuntime]:
    """One for each format, with the same weights."""
    made = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        write_model(model, "bert", layers, sparsity, quantize_attention=False)
        timed = candidates(model, TextClassification(), Path(scratch))
        (graph,) = [each.file for each in timed if each.runtime is SparseRuntime]
        for format in (Format.PLANES, *OTHERS):
            with patch.object(native, "fastest_format", lambda *_, chosen=format: chosen):
                made[format] = SparseRuntime(graph, threads=1)
    return made


def seconds(runtime: SparseRuntime, inputs: Inputs) -> float:
    begun = time.perf_counter()
    runtime.run(inputs)
    return time.perf_counter() - begun


def one_text(tokens: int) -> Inputs:
    """Random tokens of one text."""
    ids = np.random.default_rng(0).integers(1000, 30_000, (1, tokens))
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0, 0.5, 0.8, 0.9, 0.95])
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 32, 16])
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    if not native.compiled().has_amx():
        parser.exit(1, "this processor has no AMX, whose tiles are compared here\n")
    quiet_libraries()
    print(f"{cpu_name()}, one thread, {options.layers} layers\n")
    print("| zeros | tokens | PLANES, ms | " + " | ".join(x.name for x in OTHERS) + " |")
    print("|" + "---|" * (3 + len(OTHERS)))
    for sparsity in options.sparsity:
        made = runtimes(sparsity, options.layers)
        for tokens in options.tokens:
            inputs = one_text(tokens)
            times = [
                {format: seconds(runtime, inputs) for format, runtime in made.items()}
                for _ in range(options.rounds)
            ]
            planes = 1e3 * median(each[Format.PLANES] for each in times)
            ratios = [median(each[Format.PLANES] / each[x] for each in times) for x in OTHERS]
            cells = [f"{sparsity:.0%}", str(tokens), f"{planes:.1f}", *(f"{x:.2f}" for x in ratios)]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
