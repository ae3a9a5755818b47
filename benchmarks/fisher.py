"""One mask of Optimal Brain Surgeon with the kernels and with torch's operations.

python benchmarks/fisher.py                            # MiniLM's shape, random weights and texts
python benchmarks/fisher.py --layers 12 --hidden 768   # BERT-base: takes 26 GB of memory

Both estimate the Fisher information from the same texts, score every weight and update those that
remain at 80 % sparsity. Times are of one thread; the forward and backward passes, which both need,
are a row of their own. The figure leaves out training between two masks.

Smallest run: --layers 1 --hidden 64 --gradients 32 --rounds 1
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from sparsekit.sparsity.fisher import BlockFisher, Fisher
from sparsekit.sparsity.gradients import example_gradients
from sparsekit.sparsity.masks import named_masks, parse_mask_type
from sparsekit.sparsity.packed_fisher import PackedFisher
from sparsekit.sparsity.surgeon import Batch, repair, saliencies
from sparsekit.system import cpu_name

DAMP, SIZE, SPARSITY, ROWS = 1e-7, 50, 0.8, 32
UNSTRUCTURED = parse_mask_type("unstructured")
KINDS: dict[str, Callable[[int], Fisher]] = {
    "torch": lambda weights: BlockFisher.zeros(weights, SIZE, torch.device("cpu")),
    "kernels": lambda weights: PackedFisher.zeros(weights, SIZE),
}
STEPS = ("passes", "accumulation", "saliency", "update")


def batches(gradients: int, tokens: int) -> Iterator[Batch]:
    """Random texts of one length, as many as gradients."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(0, gradients, ROWS):
        ids = torch.randint(1000, (ROWS, tokens), generator=generator)
        yield {"input_ids": ids, "labels": torch.randint(2, (ROWS,), generator=generator)}


def mask(model: nn.Module, kind: str, gradients: int, tokens: int) -> dict[str, float]:
    """The seconds of each of `STEPS` for one mask; the model's weights are changed."""
    layers = {
        f"{name}.weight": layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and ".encoder." in name
    }
    fishers = {name: KINDS[kind](layer.weight.numel()) for name, layer in layers.items()}
    seconds = dict.fromkeys(STEPS, 0.0)
    begun = time.perf_counter()
    for batch in batches(gradients, tokens):
        for name, products in example_gradients(model, batch, layers, 1):
            started = time.perf_counter()
            fishers[name].add(products)
            seconds["accumulation"] += time.perf_counter() - started
    seconds["passes"] = time.perf_counter() - begun - seconds["accumulation"]
    started = time.perf_counter()
    everything = {name: torch.ones_like(layer.weight).bool() for name, layer in layers.items()}
    scores = saliencies(layers, fishers, everything, DAMP, UNSTRUCTURED)
    seconds["saliency"] = time.perf_counter() - started
    shares = dict.fromkeys(scores, SPARSITY)
    masks = named_masks(scores, shares, UNSTRUCTURED, everything, ranks_globally=False)
    started = time.perf_counter()
    repair(layers, fishers, masks, DAMP)
    seconds["update"] = time.perf_counter() - started
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--gradients", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=args.layers,
        hidden_size=args.hidden,
        intermediate_size=4 * args.hidden,
        num_attention_heads=max(1, args.hidden // 64),
        vocab_size=1000,
    )
    model = BertForSequenceClassification(config).eval()
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(args.rounds):
        for kind, runs in found.items():
            runs.append(mask(copy.deepcopy(model), kind, args.gradients, args.tokens))
    print(cpu_name())
    print("| step | torch, s | kernels, s | ratio |\n|---|---|---|---|")
    for step in (*STEPS, "all"):
        torchs, ours = (
            median(sum(run.values()) if step == "all" else run[step] for run in runs)
            for runs in found.values()
        )
        print(f"| {step} | {torchs:.2f} | {ours:.2f} | {torchs / ours:.1f} |")


if __name__ == "__main__":
    main()
