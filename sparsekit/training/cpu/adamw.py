"""AdamW that reads and writes of a token table what a step has changed; on a CPU."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.training_args import OptimizerNames

from sparsekit.kernels import adamw as kernel
from sparsekit.modifiers.base import Modifier
from sparsekit.recipe.recipe import Recipe


class RowAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, fused, with the clipping of gradients in the same pass.

    Results and state are torch's, but for rounding. A gradient may be sparse in its rows, as that
    of an embedding can be: a row that never had one is only decayed, as torch's averages of zeros
    leave it too. Parameters are float32, contiguous and on a CPU.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self._factor = 1.0
        # For each parameter with a sparse gradient: which rows' averages may be other than zero.
        self._moved: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def clip(self, limit: float) -> Tensor:
        """Let the next step take gradients of at most that norm; returns the norm they have.

        They stay as they are: `torch.nn.utils.clip_grad_norm_` would pass over them once more.
        """
        found = kernel.norm([_numbers(gradient) for gradient in self._gradients()])
        # As torch does it, in float32, down to what it adds to the norm.
        self._factor = float((limit / (found + 1e-6)).clamp(max=1.0))
        return found

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step, with gradients as the last `clip` since the step before wants them."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            kept: list[Any] = []  # The call takes addresses: these tensors live until its end.
            rows = [self._prepared(p, group, kept) for p in parameters]
            kernel.step(rows, self._factor, group["betas"], group["eps"])
        self._factor = 1.0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # A checkpoint's averages may lie in memory as those of another optimizer did.
        for state in self.state.values():
            state.update({name: value.contiguous() for name, value in state.items()})
        self._moved.clear()

    def _gradients(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    if parameter.grad.is_sparse:
                        # One sum for each row, here and in the step.
                        parameter.grad = parameter.grad.coalesce()
                    yield parameter.grad

    def _prepared(self, weight: Tensor, group: dict[str, Any], kept: list[Any]) -> kernel.Parameter:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = (
                torch.zeros_like(weight),
                torch.zeros_like(weight),
            )
        state["step"] += 1
        (beta1, beta2), step = group["betas"], float(state["step"])
        factors = (
            1 - group["lr"] * group["weight_decay"],
            group["lr"] / (1 - beta1**step),
            1 / math.sqrt(1 - beta2**step),
        )
        averages = (state["exp_avg"], state["exp_avg_sq"])
        gradient = cast(Tensor, weight.grad)
        places = moved = None
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            places = _places(gradient)
            moved = self._rows_moved(weight, averages)
        numbers = _numbers(gradient)
        kept += [numbers, places]
        return kernel.Parameter(weight, *averages, numbers, places, moved, factors)

    def _rows_moved(self, weight: Tensor, averages: tuple[Tensor, Tensor]) -> Tensor:
        if weight not in self._moved:
            # Bytes that the kernel sets from here on.
            self._moved[weight] = torch.logical_or(*((average != 0).any(1) for average in averages))
        return self._moved[weight]


def _numbers(gradient: Tensor) -> Tensor:
    return (gradient.values() if gradient.is_sparse else gradient).contiguous()


def _places(gradient: Tensor) -> Tensor:
    # For each row of a sparse gradient, where among its values it is; -1: nowhere.
    rows = gradient.indices()[0]
    places = torch.full(gradient.shape[:1], -1, dtype=torch.int32)
    places[rows] = torch.arange(len(rows), dtype=torch.int32)
    return places


def steps_by_row(args: TrainingArguments, model: nn.Module, recipe: Recipe) -> bool:
    """Whether `RowAdamW` can take the place of the arguments' optimizer."""
    reads_gradients = any(
        type(modifier).before_step is not Modifier.before_step
        for modifier in recipe.modifiers.values()
    )
    return (
        args.device.type == "cpu"
        and args.world_size == 1
        and args.optim == OptimizerNames.ADAMW_TORCH_FUSED
        and args.max_grad_norm > 0
        and not args.torch_compile
        # They are to see clipped ones.
        and not reads_gradients
        and all(p.dtype == torch.float32 and p.is_contiguous() for p in model.parameters())
        and kernel.available()
    )


@contextlib.contextmanager
def sparse_token_gradient(model: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Let the gradient of the token table hold the rows in use only, meanwhile.

    A dense one is cleared and read anew at each step, all 30,522 rows of BERT's for some hundred.
    """
    table = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
    masked = [model.get_parameter(name) for name in recipe.masked_names]
    # A mask's hook takes a dense gradient.
    if not isinstance(table, nn.Embedding) or any(table.weight is weight for weight in masked):
        yield
        return
    table.sparse = True
    try:
        yield
    finally:
        table.sparse = False
