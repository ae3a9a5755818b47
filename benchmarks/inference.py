"""A base encoder, 90 % sparse and int8, on each installed runtime, beside dense fp32 onnxruntime.

    python benchmarks/inference.py                        # about three minutes
    python benchmarks/inference.py --json                 # the last line is one JSON object
    python benchmarks/inference.py --layers 2 --rounds 2  # the smallest one: seconds
    python benchmarks/inference.py --threads 1 --sequence 512 --quantize-attention
    python benchmarks/inference.py --threads 1 --family modernbert --family mpnet --family albert

BERT-base by default; `--family` names others of about that size, one after the other.

Speed does not depend on the values of the weights, so they are random and nothing is downloaded.
Batch 1 and sequence length 128 by default; all runtimes alternate in one process, and a ratio is
the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparsekit.benchmark.advice import advice
from sparsekit.benchmark.candidates import DENSE, DYNAMIC, candidates, missing, sizes
from sparsekit.benchmark.grid import Grid, time_all
from sparsekit.models.pruning import prune
from sparsekit.models.saving import own_names
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.runs.progress import quiet_libraries
from sparsekit.system import cores, cpu_name, cpu_units
from sparsekit.tasks.text_classification import TextClassification

# The settings of a base model where those that transformers has by default are of another size.
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "albert": {
        **{"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
        "hidden_act": "gelu_new",
    },
    "deberta-v2": {
        **{"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
        **{"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
        **{"position_buckets": 256, "norm_rel_ebd": "layer_norm", "type_vocab_size": 0},
        "position_biased_input": False,
    },
    "distilbert": {},
    "electra": {
        **{"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12},
        "intermediate_size": 3072,
    },
    "eurobert": {},
    # The vocabulary of the English model, instead of all languages'.
    "gte": {"vocab_size": 30_528},
    "modernbert": {},
    "mpnet": {},
    "nomic_bert": {},
    "roberta": {"max_position_embeddings": 514},
}
# Every family has positions for this many tokens.
POSITIONS = 512


def write_model(
    folder: Path, family: str, layers: int | None, sparsity: float, quantize_attention: bool
) -> int:
    """Save a random sparse model with quantizers; returns the size of its vocabulary.

    layers: None for as many as its base model has.
    """
    torch.manual_seed(0)
    settings = FAMILIES[family] | ({} if layers is None else {"num_hidden_layers": layers})
    config = AutoConfig.for_model(family, num_labels=2, **settings)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    prune(model, sparsity)
    quantization = Quantization(
        start=0.0,
        disable_observer_epoch=1.0,
        submodules=[],
        exclude_module_types=["LayerNorm", "Tanh"],
        quantize_attention=quantize_attention,
    )
    quantization.attach(model)
    quantization.update(0.0)
    with torch.no_grad():
        model.train()(input_ids=torch.randint(0, config.vocab_size, (2, 64)))
    quantization.update(2.0)
    with own_names(model.eval()):
        model.save_pretrained(folder)
    return config.vocab_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--family", action="append", choices=list(FAMILIES))
    parser.add_argument("--layers", type=int, help="so many, instead of those of the base model")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument(
        "--quantize-attention", action="store_true", help="as recipe.quantize_attention=true"
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=cores())
    options = parser.parse_args()
    quiet_libraries()
    grid = Grid(
        batches=[options.batch],
        sequences=[options.sequence],
        rounds=options.rounds,
        threads=options.threads,
    )
    grid = grid.fitted(POSITIONS)
    families = options.family or ["bert"]
    if options.json and len(families) > 1:
        parser.error("--json prints one family: give --family once")
    for family in families:
        if len(families) > 1:
            print(f"\n{family}")
        measure(family, grid, options)


def measure(family: str, grid: Grid, options: argparse.Namespace) -> None:
    """Time one family, and print a line for each candidate."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        vocabulary = write_model(
            model, family, options.layers, options.sparsity, options.quantize_attention
        )
        timed = candidates(model, TextClassification(), Path(scratch))
        file_sizes = sizes(timed)
        rows = time_all(timed, grid, vocabulary)
    print(f"{cpu_name()}, {options.threads} threads")
    for row in rows:
        size = file_sizes[row["name"]]
        latency = f"p50 {row['latency_ms_p50']:8.2f} ms  p99 {row['latency_ms_p99']:8.2f} ms"
        file = f"file {size['bytes'] / 1e6:6.1f} MB, zstd {size['bytes_compressed'] / 1e6:6.1f} MB"
        memory = f"{row['memory_bytes'] / 1e6:6.0f} MB"
        print(f"{row['name']:34s} {latency}  {row['speedup']:5.2f}x  {memory}  {file}")
    for name, fix in missing().items():
        print(f"{name}: not installed: {fix}")
    print("\n".join(advice(rows, cpu_units(), options.sparsity)))
    if options.json:
        speedup = {row["name"]: row["speedup"] for row in rows if row["name"] != DENSE}
        baseline = speedup.pop(DYNAMIC)
        result = {
            "speedup": speedup | dict.fromkeys(missing()),
            "speedup_dynamic_int8": baseline,
            "cpu": cpu_name(),
            "cpu_units": cpu_units(),
            "sizes": file_sizes,
            "rows": rows,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
