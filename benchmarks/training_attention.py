"""How long attention without dropout takes in training, forward and backward, on one CPU thread.

    python benchmarks/training_attention.py               # half a minute
    python benchmarks/training_attention.py --rounds 2    # the smallest run

Three ways in turn, for each shape: torch's fused attention while float32 matmuls may use bf16 units
(`torch.set_float32_matmul_precision("medium")`, which training sets on CPUs with AMX), the same in
float32, and the attention that training uses. The table has the medians in ms, and in brackets how
many times as fast as the first way. Without bf16 units, the first two are the same.

Left out: attention with dropout, and long rows, for which training uses the second way.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from statistics import median

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sparsekit.system import cpu_name
from sparsekit.training.cpu.attention import training_attention
from sparsekit.training.cpu.precision import cpu_has_bf16_units, matmul_precision

# Rows, heads, tokens and values of a head: MiniLM's and BERT-base's.
SHAPES = ((32, 12, 28, 32), (32, 12, 64, 32), (16, 12, 128, 32), (16, 12, 128, 64))
WAYS = ("fused, medium", "fused, float32", "sparsekit")


def seconds(way: str, shape: tuple[int, int, int, int]) -> float:
    """The time of a forward and a backward pass."""
    rows, heads, tokens, size = shape
    torch.manual_seed(0)
    operands = [
        torch.randn(rows, tokens, heads, size).transpose(1, 2).requires_grad_() for _ in range(3)
    ]
    mask = torch.zeros(rows, 1, tokens, tokens)
    mask[0, ..., tokens // 2 :] = torch.finfo(torch.float32).min
    module = nn.Module()
    module.is_causal = False
    attention = training_attention if way == "sparsekit" else sdpa_attention_forward
    torch.set_float32_matmul_precision("medium" if way == "fused, medium" else "highest")
    with matmul_precision("medium") if way == "sparsekit" else torch.enable_grad():
        start = time.perf_counter()
        outputs, _ = attention(module, *operands, mask, scaling=size**-0.5)
        outputs.sum().backward()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    units = "with" if cpu_has_bf16_units() else "without"
    print(f"{cpu_name()}, {units} bf16 units, one thread; ms")
    print(f"| rows, heads, tokens, size | {' | '.join(WAYS)} |\n{'|---' * (len(WAYS) + 1)}|")
    for shape in SHAPES:
        found = defaultdict(list)
        for round_ in range(rounds + 1):
            for way in WAYS:
                taken = seconds(way, shape)
                if round_:  # The first one warms up.
                    found[way].append(1e3 * taken)
        slowest = median(found[WAYS[0]])
        times = (median(found[way]) for way in WAYS)
        cells = " | ".join(f"{each:.1f} ({slowest / each:.1f})" for each in times)
        print(f"| {', '.join(map(str, shape))} | {cells} |")


if __name__ == "__main__":
    main()
