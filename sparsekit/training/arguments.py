"""Training arguments: transformers' own, with precision, sparse matmuls and token batches."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.training_args import OptimizerNames

from sparsekit.distributed import FIRST_PROCESS, PROCESSES
from sparsekit.errors import ConfigError
from sparsekit.kernels.errors import KernelError, warn
from sparsekit.kernels.sparse_linear import compiled, pays_here
from sparsekit.metrics.table import ALIASES, higher_is_better
from sparsekit.training.class_weights import weight_problems
from sparsekit.training.cpu.precision import cpu_has_bf16_units
from sparsekit.training.packages import package_problems
from sparsekit.training.resume import chosen_checkpoint

_AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SPARSE_PRODUCTS = ("auto", "on", "off")


@dataclass
class SparseTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with more fields.

    precision: auto, fp32, bf16 or fp16; auto is bf16 on devices with bf16 matrix units, else fp32.
        In place of auto, `bf16=True` and `fp16=True` choose it too.
        On a GPU bf16 and fp16 mean autocast. On a CPU bf16 means that float32 matmuls use its bf16
        units: tensors and accumulators stay float32.
    sparse_products: auto, on or off: whether matmuls skip the masked weights of layers that are
        sparse enough; auto: on CPUs where that is faster.
    resume_from_checkpoint: auto, true, a run folder or a checkpoint folder; see
        `sparsekit.training.resume.chosen_checkpoint`. Afterwards a checkpoint folder or None, from
        which training goes on unless `train` is told otherwise.
    resume_despite_changes: go on from a checkpoint that was trained by another config.
    tokens_per_batch: the number of tokens in a batch, padding included, instead of a fixed number
        of rows. The loss is the mean over a batch's rows, so rows in batches of long ones weigh
        more.
    early_stopping_patience: stop once `metric_for_best_model` (by default the loss) has not
        improved in this many evaluations of the recipe's last stage; None: train to the end.
    early_stopping_threshold: by how much it must change to count as improved.
    class_weights: `balanced`, or a weight of the loss for each class, as a list or by name; see
        `sparsekit.training.class_weights.class_weights`.

    `load_best_model_at_end` compares checkpoints of the recipe's last stage alone.

    Raises ConfigError for values that cannot be used, with the fix; fields are in backticks, which
    `sparsekit.config.build` replaces by their keys.
    """

    precision: str = field(default="auto", metadata={"help": ", ".join(PRECISIONS)})
    sparse_products: str = field(default="auto", metadata={"help": ", ".join(SPARSE_PRODUCTS)})

    resume_from_checkpoint: str | bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "auto, true, a run folder or a checkpoint folder"}
    )
    resume_despite_changes: bool = field(
        default=False, metadata={"help": "resume although the config is another one"}
    )
    tokens_per_batch: int | None = field(default=None, metadata={"help": "instead of rows"})
    early_stopping_patience: int | None = field(default=None, metadata={"help": "evaluations"})
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "smaller gains do not count"}
    )
    class_weights: str | list[float] | dict[str, float] | None = field(
        default=None, metadata={"help": "balanced, a list, or class: weight"}
    )

    def __post_init__(self) -> None:
        self._check_counts()
        self._choose_checkpoint()
        self._choose_precision()
        self._choose_best_metric()
        if problems := weight_problems(self.class_weights):
            raise ConfigError(problems)
        if PROCESSES > 1 and not torch.accelerator.is_available():
            # Otherwise accelerate would start no process group, and each process train alone.
            self.use_cpu, self.ddp_backend = True, self.ddp_backend or "gloo"
        super().__post_init__()  # type: ignore[no-untyped-call]
        if problems := package_problems(
            cast(list[str], self.report_to), str(OptimizerNames(self.optim).value)
        ):
            raise ConfigError(problems)
        if self.n_gpu > 1:
            # transformers would use DataParallel, whose replicas lose what a recipe changes.
            raise ConfigError(
                [
                    f"one process sees {self.n_gpu} GPUs, and trains on one: start one process for "
                    f"each with torchrun --nproc_per_node={self.n_gpu}, or choose one GPU with "
                    "the environment variable CUDA_VISIBLE_DEVICES=0"
                ]
            )
        self._share_paths()
        if self.sparse_products == "on" and (problem := self.sparse_products_problem()):
            raise ConfigError([f"`sparse_products=on`: {problem}; set `sparse_products=auto`"])
        if self.tokens_per_batch is not None and (problem := self._token_budget_problem()):
            raise ConfigError([f"`tokens_per_batch={self.tokens_per_batch}`: {problem}"])

    def _check_counts(self) -> None:
        if too_small := [name for name in _AT_LEAST_ONE if getattr(self, name) < 1]:
            raise ConfigError(
                [f"`{name}` is {getattr(self, name)}; set 1 or more" for name in too_small]
            )
        if self.max_steps < 1 and self.max_steps != -1:
            raise ConfigError(
                [f"`max_steps` is {self.max_steps}; set 1 or more, or -1 for whole epochs"]
            )
        if self.batch_eval_metrics:
            raise ConfigError(
                [
                    "`batch_eval_metrics=true` is not supported: metrics are computed of a whole "
                    "split, as they are of the exported model; set it to false"
                ]
            )

    def _choose_checkpoint(self) -> None:
        """Replace what `resume_from_checkpoint` says by the folder of a checkpoint, or by None."""
        # The other processes have folders of their own, where the run leaves nothing.
        choice = self.resume_from_checkpoint if FIRST_PROCESS else None
        checkpoint = chosen_checkpoint(choice, Path(self.output_dir or "."))
        self.resume_from_checkpoint = None if checkpoint is None else str(checkpoint)

    def _choose_precision(self) -> None:
        """Replace `precision=auto` by the best of this device, and set transformers' own fields."""
        for name, choices in (("precision", PRECISIONS), ("sparse_products", SPARSE_PRODUCTS)):
            if (value := getattr(self, name)) not in choices:
                raise ConfigError([f"`{name}` {value!r} is not one of {', '.join(choices)}"])
        self._take_half_precision()
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.precision == "fp16" and not on_gpu:
            where, fix = "precision=fp16", "set `precision=auto`"
            if self.fp16:
                where, fix = "fp16=true", "leave it out"
            raise ConfigError([f"`{where}` needs a GPU; {fix}"])
        if self.precision == "auto":
            fast = torch.cuda.is_bf16_supported() if on_gpu else cpu_has_bf16_units()
            self.precision = "bf16" if fast else "fp32"
        self.bf16 = on_gpu and self.precision == "bf16"
        self.fp16 = self.precision == "fp16"
        if on_gpu:
            # It waits for the loss of every step; a loss that is not finite ends our training.
            self.logging_nan_inf_filter = False

    def _take_half_precision(self) -> None:
        """Take transformers' `bf16=true` or `fp16=true` as the precision, if none is chosen."""
        for name in ("bf16", "fp16"):
            if not getattr(self, name):
                continue
            if self.precision not in ("auto", name):
                raise ConfigError(
                    [
                        f"`{name}=true` and a precision of {self.precision} disagree; set "
                        f"`precision={name}` alone"
                    ]
                )
            self.precision = name

    def _choose_best_metric(self) -> None:
        """Set by which metric checkpoints are compared, and whether higher is better."""
        if self.early_stopping_patience is not None:
            self._check_early_stopping()
            self.metric_for_best_model = self.metric_for_best_model or "loss"
        best = (self.metric_for_best_model or "").removeprefix("eval_")
        if best in ALIASES:
            # As evaluations name it.
            self.metric_for_best_model = best = ALIASES[best]
        if self.greater_is_better is None and not higher_is_better(best):
            # transformers knows of names that end in "loss" only.
            self.greater_is_better = False

    def _share_paths(self) -> None:
        """Let all processes use the folders of the first; raises ConfigError for another number."""
        if self.world_size != PROCESSES:
            raise ConfigError(
                [
                    f"torchrun started {PROCESSES} processes, but {self.world_size} would train "
                    "together; set `ddp_backend` to nccl on GPUs, to gloo on CPUs"
                ]
            )
        if self.world_size > 1:
            # One folder holds the checkpoints of all, with the random state of each.
            shared: list[Any] = [self.output_dir, self.resume_from_checkpoint]
            torch.distributed.broadcast_object_list(shared)
            self.output_dir, self.resume_from_checkpoint = shared

    def _check_early_stopping(self) -> None:
        assert self.early_stopping_patience is not None
        problems = []
        if self.early_stopping_patience < 1:
            problems.append(
                f"`early_stopping_patience` is {self.early_stopping_patience}; set 1 or "
                "more, or null"
            )
        if self.early_stopping_threshold < 0:
            problems.append(
                f"`early_stopping_threshold` is {self.early_stopping_threshold:g}; set 0 or more"
            )
        if IntervalStrategy(self.eval_strategy) == IntervalStrategy.NO:
            problems.append(
                f"`early_stopping_patience={self.early_stopping_patience}` needs "
                "evaluations; set `eval_strategy=epoch`"
            )
        if problems:
            raise ConfigError(problems)

    def _token_budget_problem(self) -> str | None:
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            return "set 1 or more, or null"
        if self.train_sampling_strategy != "group_by_length":
            return "rows must be grouped; set `train_sampling_strategy=group_by_length`"
        if self.world_size > 1:
            return f"{self.world_size} processes cannot share such batches; set it to null"
        if self.dataloader_drop_last:
            return (
                "the last batch has the shortest rows, always the same, which no step would "
                "train on; set `dataloader_drop_last=false`"
            )
        return None

    def sparse_products_problem(self) -> str | None:
        """Why matmuls do not skip masked weights, or None if they do. Compiles the kernel once."""
        if self.sparse_products == "off":
            return "it is off"
        if self.device.type != "cpu":
            return "its kernel runs on CPUs only"
        if self.torch_compile:
            return "torch.compile cannot call its kernel"
        if self.matmul_precision == "medium":
            return "dense matmuls on bf16 units, which `precision=fp32` does without, are faster"
        if self.sparse_products == "auto" and not pays_here():
            return "it is faster only on CPUs with AVX2 or AVX-512"
        try:
            compiled()
        except KernelError as error:
            warn(error, "training multiplies zeros too, which is slower")
            return str(error)
        return None

    @property
    def matmul_precision(self) -> Literal["medium", "highest"]:
        """torch's precision of float32 matmuls; medium allows bf16 units on a CPU."""
        return "medium" if self.precision == "bf16" and not self.bf16 else "highest"


def is_secret(name: str) -> bool:
    """Whether a field holds a token, by its name, as transformers tells them: `hub_token`."""
    return name.endswith("_token")


@contextlib.contextmanager
def without_secrets(args: TrainingArguments) -> Iterator[None]:
    """A context in which `args` has no tokens, as while they are written to a file."""
    names = [field.name for field in dataclasses.fields(args) if is_secret(field.name)]
    secrets = {name: getattr(args, name) for name in names}
    for name in names:
        setattr(args, name, None)
    try:
        yield
    finally:
        for name, value in secrets.items():
            setattr(args, name, value)
