"""What CPU training replaces in torch and transformers, within one context."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from transformers import Trainer

from sparsekit.recipe.recipe import Recipe
from sparsekit.training.cpu.adamw import RowAdamW, sparse_token_gradient
from sparsekit.training.cpu.allocator import reuse_freed_memory
from sparsekit.training.cpu.attention import training_attention_in
from sparsekit.training.cpu.dropout import bit_dropout_in
from sparsekit.training.cpu.sparse_linear import SparseLinears


@contextlib.contextmanager
def cpu_acceleration(
    trainer: Trainer, recipe: Recipe, sparse_linears: SparseLinears
) -> Iterator[None]:
    """Speed up `trainer` within the context; afterwards model, accelerator and torch are restored.

    On a CPU, freed memory is reused, `nn.Dropout` and fused attention use the kernels of
    `sparsekit.kernels`, and `RowAdamW`, where the trainer uses it, clips gradients and takes a
    sparse gradient of the token embedding. On any device `sparse_linears` is released at the end.
    Everything is undone after an exception too.
    """
    model = cast(nn.Module, trainer.model)
    with contextlib.ExitStack() as stack:
        stack.callback(sparse_linears.release)
        if trainer.args.device.type == "cpu":
            stack.enter_context(reuse_freed_memory())
            stack.enter_context(bit_dropout_in(model))
            stack.enter_context(training_attention_in(model))
        if trainer.optimizer_cls_and_kwargs and trainer.optimizer_cls_and_kwargs[0] is RowAdamW:
            stack.enter_context(sparse_token_gradient(model, recipe))
            stack.enter_context(_clipping_in_the_step(trainer))
        yield


@contextlib.contextmanager
def _clipping_in_the_step(trainer: Trainer) -> Iterator[None]:
    """Clip with `RowAdamW.clip`, since accelerate's function is another pass over the gradients."""
    accelerator = trainer.accelerator

    def clip(_: Any, max_norm: float) -> Tensor:
        wrapped = cast(AcceleratedOptimizer, trainer.optimizer)
        return cast(RowAdamW, wrapped.optimizer).clip(max_norm)

    # An instance attribute: deleting it restores the class's method.
    accelerator.clip_grad_norm_ = clip
    try:
        yield
    finally:
        del accelerator.clip_grad_norm_
