"""Where the time of a training step goes, before and during QAT, by kind of operator.

    python benchmarks/step_profile.py               # MiniLM on 2 cores: about a minute
    python benchmarks/step_profile.py --operators   # each operator on its own
    python benchmarks/step_profile.py --steps 5 --batch-size 2   # the smallest run: seconds

Steps are those of `overhead.py`: full batches without padding, random weights, cached teacher
logits. Shares are of the operators' self time, on the CPU or the GPU, as `torch.profiler` reports.

Not measured: Python's time between operators, which overlaps with work on a GPU but not on a CPU.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from collections import Counter
from typing import Any

import torch
from overhead import SHAPES, make_trainer
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from sparsekit.kernels import adamw, attention, dropout, quantize, sparse_linear
from sparsekit.kernels.library import library
from sparsekit.runs.progress import quiet_libraries
from sparsekit.system import cores, cpu_name
from sparsekit.training.cpu.precision import matmul_precision

WARMUP = 3
# Operators by purpose; those in no group are counted as other.
GROUPS = {
    "float matmuls": ("mm", "addmm", "bmm", "baddbmm", "linear", "_scaled_dot_product"),
    "sparse matmuls": ("sparse_matmul", "sparse_weight_gradient", "gather"),
    "integer matmuls": ("_int_mm", "scale_sums", "row_sums"),
    "optimizer and clipping": (
        "adamw",
        "sums_of_squares",
        "_fused_adamw_",
        "linalg_vector_norm",
        "_foreach_norm",
    ),
    "attention, with its dropout": ("attention", "attention_gradient"),
    "dropout": ("drop", "bernoulli_", "random_", "native_dropout", "native_dropout_backward"),
    "zeroing, filling, copying": ("fill_", "zero_", "copy_", "_foreach_zero_", "cat", "clone"),
    "activations, LayerNorm, softmax": (
        "gelu",
        "gelu_backward",
        "native_layer_norm",
        "native_layer_norm_backward",
        "_softmax",
        "_softmax_backward_data",
        "tanh",
    ),
    "rounding and observing": (
        "quantize",
        "observe",
        "round",
        "round_",
        "clamp",
        "clamp_",
        "aminmax",
        "amin",
        "amax",
    ),
    "elementwise operations": (
        "mul",
        "mul_",
        "add",
        "add_",
        "sub",
        "sub_",
        "div",
        "sum",
        "_foreach_mul_",
        "where",
        "all",
        "eq",
        "ge",
        "le",
        "lt",
    ),
}


class Recorded:
    """A library of kernels whose calls the profiler records as operators named `kernel::...`."""

    def __init__(self, compiled: ctypes.CDLL) -> None:
        self._compiled = compiled
        self._handle = compiled._handle  # by which ctypes finds the constants

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._compiled, name)

        def recorded(*arguments: Any) -> Any:
            with record_function(f"kernel::{name}"):
                return function(*arguments)

        return recorded


def record_kernels() -> None:
    """Make the profiler record the kernels, which are not operators of torch."""
    for module in (adamw, attention, dropout, quantize, sparse_linear):
        module.library = lambda *arguments: Recorded(library(*arguments))  # type: ignore[attr-defined]


class Recorder(TrainerCallback):
    """Profiles every step after the warm-up."""

    def __init__(self) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self.profile = profile(activities=activities)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == WARMUP:
            self.profile.start()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.profile.stop()


def operators(kind: str, options: argparse.Namespace) -> Counter[str]:
    """Self time in microseconds by operator."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(kind, options, recorder, folder)
        trainer.remove_callback(PrinterCallback)
        with matmul_precision(trainer.args.matmul_precision):
            trainer.train()
    on_gpu = torch.cuda.is_available()
    times: Counter[str] = Counter()
    for event in recorder.profile.key_averages():
        owner, _, name = event.key.partition("::")
        if owner in ("aten", "kernel"):
            time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            times[name] += time
    return times


def grouped(times: Counter[str]) -> Counter[str]:
    """Self time in microseconds by group."""
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    by_group = Counter(dict.fromkeys([*GROUPS, "other"], 0.0))
    for name, time in times.items():
        by_group[group_of.get(name, "other")] += time
    return by_group


def main() -> None:
    """Profile all kinds of steps, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--operators", action="store_true")
    options = parser.parse_args()
    if options.steps <= WARMUP:
        parser.error(f"--steps {options.steps}: the first {WARMUP} are not profiled; set more")
    quiet_libraries()
    record_kernels()
    times = {kind: operators(kind, options) for kind in ("dense", "sparse_kd", "qat")}
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    print(f"{name}, {cores()} cores, {torch.get_num_threads()} threads; {options.shape}, ", end="")
    print(f"{options.batch_size} x {options.length} tokens")
    columns = times if options.operators else {kind: grouped(x) for kind, x in times.items()}
    print(f"{'':34}" + "".join(f"{kind:>12}" for kind in columns))
    totals = {kind: sum(column.values()) for kind, column in columns.items()}
    largest = {
        name: max(columns[k][name] / totals[k] for k in columns)
        for column in columns.values()
        for name in column
    }
    for name in sorted(largest, key=lambda name: -largest[name])[:30]:
        print(
            f"{name:34}"
            + "".join(f"{100 * c[name] / totals[k]:10.1f} %" for k, c in columns.items())
        )


if __name__ == "__main__":
    main()
