"""AdamW that skips the unchanged rows of a token embedding; CPU only."""

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
    """`torch.optim.AdamW`, fused with gradient clipping into one pass over memory.

    Results and state equal torch's up to rounding. A gradient may be sparse in its rows, as that of
    an embedding can be: a row that has never had a gradient is only decayed, which is what torch's
    update does with averages of zero. Parameters are float32, contiguous and on a CPU.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self._factor = 1.0
        # For each parameter with a sparse gradient: the rows whose averages may be nonzero.
        self._touched: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def clip(self, limit: float) -> Tensor:
        """Clip the gradients of the next step to the norm `limit`; returns their current norm.

        The gradients themselves are unchanged, unlike with `torch.nn.utils.clip_grad_norm_`: the
        next step multiplies them as it reads them.
        """
        norm = kernel.norm([_values(gradient) for gradient in self._gradients()])
        # As in torch: float32, and the same constant against a norm of zero.
        self._factor = float((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step, with the gradients clipped if `clip` was called since the step before."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            # The kernel takes addresses: these tensors must live until it returns.
            alive: list[Tensor | None] = []
            prepared = [self._prepared(p, group, alive) for p in parameters]
            kernel.step(prepared, self._factor, group["betas"], group["eps"])
        self._factor = 1.0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # The averages of a checkpoint may have other strides than this class creates.
        for state in self.state.values():
            state.update({name: value.contiguous() for name, value in state.items()})
        self._touched.clear()

    def _gradients(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    if parameter.grad.is_sparse:
                        # One entry per row, both for the norm and for the step.
                        parameter.grad = parameter.grad.coalesce()
                    yield parameter.grad

    def _prepared(
        self, weight: Tensor, group: dict[str, Any], alive: list[Tensor | None]
    ) -> kernel.Parameter:
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
        gradient_rows = touched = None
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            gradient_rows = _gradient_rows(gradient)
            touched = self._touched_rows(weight, averages)
        else:
            # It may make any row's averages nonzero.
            self._touched.pop(weight, None)
        values = _values(gradient)
        alive += [values, gradient_rows]
        return kernel.Parameter(weight, *averages, values, gradient_rows, touched, factors)

    def _touched_rows(self, weight: Tensor, averages: tuple[Tensor, Tensor]) -> Tensor:
        if weight not in self._touched:
            # From here on the kernel updates it.
            rows = torch.logical_or(*((average != 0).any(1) for average in averages))
            self._touched[weight] = rows
        return self._touched[weight]


def _values(gradient: Tensor) -> Tensor:
    return (gradient.values() if gradient.is_sparse else gradient).contiguous()


def _gradient_rows(gradient: Tensor) -> Tensor:
    # For each row of a sparse gradient its index among the values, -1 for a row of zeros.
    rows = gradient.indices()[0]
    gradient_rows = torch.full(gradient.shape[:1], -1, dtype=torch.int32)
    gradient_rows[rows] = torch.arange(len(rows), dtype=torch.int32)
    return gradient_rows


def steps_by_row(args: TrainingArguments, model: nn.Module, recipe: Recipe) -> bool:
    """Whether `RowAdamW` can replace the optimizer that the arguments name."""
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
        # Modifiers that read gradients need clipped ones, which `RowAdamW.clip` does not leave.
        and not reads_gradients
        and all(p.dtype == torch.float32 and p.is_contiguous() for p in model.parameters())
        and kernel.available()
    )


@contextlib.contextmanager
def sparse_token_gradient(model: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Make the gradient of the token embedding sparse within the context.

    A dense gradient is cleared and read at each step, all 30,522 rows of BERT's embedding although
    a batch uses some hundreds.
    """
    table = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
    masked = [model.get_parameter(name) for name in recipe.masked_names]
    # The gradient hook of a mask needs a dense gradient.
    if not isinstance(table, nn.Embedding) or any(table.weight is weight for weight in masked):
        yield
        return
    table.sparse = True
    try:
        yield
    finally:
        table.sparse = False
