"""Where the time of a training step goes, before QAT and in QAT: shares of what torch computed.

    python benchmarks/step_profile.py               # MiniLM on 2 cores: about a minute
    python benchmarks/step_profile.py --operators   # each operator of torch by itself

Steps are those of `overhead.py`: full batches without padding, random weights, cached teacher
logits. Shares are of the operators' own time, on the CPU or the GPU, as `torch.profiler` sees it.

Left out: Python's own time between operators, which hides behind a GPU but not on a CPU.
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
from sparsekit.training.arguments import matmul_precision

WARMUP = 3
# Operators by what they are for; what is in no group is counted as the rest.
GROUPS = {
    "float products": ("mm", "addmm", "bmm", "baddbmm", "linear", "_scaled_dot_product"),
    "products without zeros": ("sparse_product", "sparse_weight_gradient", "gather"),
    "integer products": ("_int_mm", "scale_sums", "row_sums"),
    "optimizer and clipping": (
        "adamw",
        "sums_of_squares",
        "_fused_adamw_",
        "linalg_vector_norm",
        "_foreach_norm",
    ),
    "attention": ("attention", "attention_gradient"),
    "dropout": ("drop", "bernoulli_", "random_", "native_dropout", "native_dropout_backward"),
    "clearing, filling, copying": ("fill_", "zero_", "copy_", "_foreach_zero_", "cat", "clone"),
    "activations, LayerNorm, softmax": (
        "gelu",
        "gelu_backward",
        "native_layer_norm",
        "native_layer_norm_backward",
        "_softmax",
        "_softmax_backward_data",
        "tanh",
    ),
    "rounding to integers": (
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
    "elementwise sums and products": (
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


class Shown:
    """A library of kernels whose calls the profiler sees, as operators named `kernel::...`."""

    def __init__(self, compiled: ctypes.CDLL) -> None:
        self._compiled = compiled

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._compiled, name)

        def shown(*arguments: Any) -> Any:
            with record_function(f"kernel::{name}"):
                return function(*arguments)

        return shown


def show_kernels() -> None:
    """Let the profiler see our kernels; torch knows nothing of them."""
    for module in (adamw, attention, dropout, quantize, sparse_linear):
        module.library = lambda *arguments: Shown(library(*arguments))  # type: ignore[attr-defined]


class Recorder(TrainerCallback):
    """Profiles every step after the first ones."""

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
    """Microseconds by operator."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(kind, options, recorder, folder)
        trainer.remove_callback(PrinterCallback)
        with matmul_precision(trainer.args.matmul_precision):
            trainer.train()
    on_gpu = torch.cuda.is_available()
    found: Counter[str] = Counter()
    for event in recorder.profile.key_averages():
        owner, _, name = event.key.partition("::")
        if owner in ("aten", "kernel"):
            time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            found[name] += time
    return found


def grouped(times: Counter[str]) -> Counter[str]:
    """Microseconds by group."""
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    found = Counter(dict.fromkeys([*GROUPS, "the rest"], 0.0))
    for name, time in times.items():
        found[group_of.get(name, "the rest")] += time
    return found


def main() -> None:
    """Profile, then print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--operators", action="store_true")
    options = parser.parse_args()
    quiet_libraries()
    show_kernels()
    found = {kind: operators(kind, options) for kind in ("dense", "sparse_kd", "qat")}
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    print(f"{name}, {cores()} cores, {torch.get_num_threads()} threads; {options.shape}, ", end="")
    print(f"{options.batch_size} x {options.length} tokens")
    columns = found if options.operators else {kind: grouped(x) for kind, x in found.items()}
    print(f"{'':34}" + "".join(f"{kind:>12}" for kind in columns))
    totals = {kind: sum(times.values()) for kind, times in columns.items()}
    largest = {
        name: max(columns[k][name] / totals[k] for k in columns)
        for x in columns.values()
        for name in x
    }
    for name in sorted(largest, key=lambda name: -largest[name])[:30]:
        print(
            f"{name:34}"
            + "".join(f"{100 * x[name] / totals[k]:10.1f} %" for k, x in columns.items())
        )


if __name__ == "__main__":
    main()
