"""Distillation of attention: the student's tokens relate to each other as the teacher's do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsekit.errors import ConfigError, UserError
from sparsekit.modifiers.distillation.live import LiveDistillation
from sparsekit.modifiers.distillation.pairing import same_depth
from sparsekit.modifiers.distillation.recording import PairedOutputs
from sparsekit.shape.blocks import Block, blocks


def relation_distance(
    student: Tensor, teacher: Tensor, mask: Tensor | None, relation_heads: int
) -> Tensor:
    """The KL divergence of the student's relations from the teacher's, a scalar.

    A relation is the softmax of the scaled products of each token's vector with those of all
    tokens, in each head: [batch, relation_heads, sequence, sequence]. The divergence is the mean
    over heads and tokens.

    student, teacher: [batch, sequence, width], of equal or different widths.
    mask: [batch, sequence], 0 at padding, which is neither compared nor related to.
    relation_heads: divides both widths.
    """
    ours, theirs = (
        _relations(vectors, mask, relation_heads) for vectors in (student.float(), teacher.float())
    )
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)
    if mask is not None:
        divergence = divergence.transpose(1, 2)[mask.bool()]
    return divergence.mean()


def _relations(vectors: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """The logarithms of the relations."""
    batch, sequence, width = vectors.shape
    split = vectors.view(batch, sequence, heads, width // heads).transpose(1, 2)
    products = split @ split.transpose(-1, -2) / math.sqrt(width // heads)
    if mask is not None:
        # Not -inf: its difference from itself is not a number.
        lowest = torch.finfo(products.dtype).min
        products = products.masked_fill(~mask.bool()[:, None, None, :], lowest)
    return products.log_softmax(dim=-1)


@dataclass(kw_only=True)
class AttentionDistillation(LiveDistillation):
    """Adds `gain` times the distance between attention of the student and of the teacher.

    Compared are the relations between the queries of all tokens, between their keys, and between
    their values, each by its KL divergence, after W. Wang et al., "MiniLMv2: Multi-Head
    Self-Attention Relation Distillation" (2021). Neither widths nor numbers of heads need be equal.

    layers: `last` compares the last layer of both models; `all` each layer of the student with the
        one at the same depth of the teacher, and takes the mean over layers.
    relation_heads: into how many parts queries, keys and values are split. It must divide their
        widths in both models; null: the teacher's number of heads.

    The teacher runs at every step, on the student's tokens: both must share a vocabulary. Logs
    `attention_loss`, the sum of the three distances. Layers without heads are left out.
    """

    logged_as: ClassVar[str] = "attention_loss"

    layers: str = "last"
    relation_heads: int | None = None

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if self.layers not in ("last", "all"):
            found.append(f"layers {self.layers!r} is not known; set last or all")
        if self.relation_heads is not None and self.relation_heads < 1:
            found.append(f"relation_heads {self.relation_heads} must be 1 or more, or null")
        return found

    def attach(self, model: nn.Module) -> None:
        if not self.needs_teacher:
            return
        assert isinstance(model, PreTrainedModel) and isinstance(self._teacher, PreTrainedModel)
        try:
            paired = same_depth(blocks(model), blocks(self._teacher))
        except UserError as error:
            raise ConfigError([str(error)]) from error
        paired = [(own, theirs) for own, theirs in paired if own.heads and theirs.heads]
        if not paired:
            raise ConfigError(["student and teacher have no layer with attention at one depth"])
        chosen = paired[-1:] if self.layers == "last" else paired
        names = [pair for own, theirs in chosen for pair in _projections(own, theirs)]
        self._recorded = PairedOutputs(model, self._teacher, names)
        self._heads = self.relation_heads or self._teacher.config.num_attention_heads
        widths = sorted({width for pair in self._recorded.widths() for width in pair})
        if any(width % self._heads for width in widths):
            raise ConfigError(
                [
                    f"relation_heads {self._heads} does not divide all widths of queries, keys and "
                    f"values in both models: {', '.join(map(str, widths))}; set a divisor of "
                    f"{math.gcd(*widths)}"
                ]
            )

    def distance(self, recorded: PairedOutputs) -> Tensor:
        distances = [
            relation_distance(own, theirs, recorded.mask, self._heads)
            for own, theirs in recorded.outputs()
        ]
        return 3 * torch.stack(distances).mean()

    @property
    def note(self) -> str:
        if self._recorded is None:
            return ""
        return f"{len(self._recorded.pairs) // 3} layers, {self._heads} relation heads"


def _projections(own: Block, theirs: Block) -> list[tuple[str, str]]:
    """The names of queries, keys and values of both layers."""
    return [
        (f"{own.name}.{getattr(own.layout, part)}", f"{theirs.name}.{getattr(theirs.layout, part)}")
        for part in ("query", "key", "value")
    ]
